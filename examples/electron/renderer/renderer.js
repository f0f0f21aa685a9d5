// The page: it knows `window.model` (preload.cjs) and nothing of Electron or Node.
const find = (id) => document.getElementById(id);
const [adapter, state, answers, prompt, send, stop] = ["adapter", "state", "answers", "prompt", "send", "stop"].map(
  find,
);
let running;

function add(className, text) {
  const paragraph = document.createElement("p");
  paragraph.className = className;
  paragraph.textContent = text;
  answers.append(paragraph);
  paragraph.scrollIntoView();
  return paragraph;
}

const explain = ({ message, hint }) => (hint === undefined ? message : `${message} (${hint})`);

function setRunning(id, output) {
  running = id === undefined ? undefined : { id, output };
  send.disabled = running !== undefined || adapter.disabled;
  stop.disabled = running === undefined;
}

const on = {
  state({ phase, adapters, error }) {
    state.textContent = error === undefined ? phase : explain(error);
    state.className = error === undefined ? "" : "error";
    adapter.disabled = phase !== "ready";
    if (adapters !== undefined) {
      adapter.replaceChildren(new Option("none (base model)", ""), ...adapters.map((name) => new Option(name)));
    }
    setRunning();
  },
  text({ text }) {
    running.output.textContent += text;
  },
  done({ usage }) {
    state.textContent = `${usage.completionTokens} tokens`;
    setRunning();
  },
  error({ error }) {
    if (error.code === "ERR_REQUEST_CANCELLED") state.textContent = "stopped";
    else add("error", explain(error));
    setRunning();
  },
};

window.model.connect((message) => {
  // What still arrives of an answer that is over belongs to nobody.
  if (message.type === "state" || message.id === running?.id) on[message.type](message);
});

document.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  add("prompt", prompt.value);
  setRunning(window.model.ask(prompt.value, adapter.value || undefined, 200), add("answer", ""));
  prompt.value = "";
});

prompt.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  if (!send.disabled) event.target.form.requestSubmit();
});

stop.addEventListener("click", () => window.model.cancel(running.id));
