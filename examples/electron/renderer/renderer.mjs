// The page's program: it knows `window.model` (preload.cjs) and nothing of Electron or Node.
import { Chat, notify } from "./ui/chat.mjs";

const find = (id) => document.getElementById(id);
const base = "base model";
const explain = ({ message, hint }) => (hint === undefined ? message : `${message} (${hint})`);

const chat = new Chat(ask);
let nextId = 1;
/** The receivers of messages about requests, by the request's id. */
const waiting = new Map();
/** How often in a row the model's process has exited: it is not started forever. */
let exits = 0;

/** Sends a request and yields each message about it, up to the last. */
async function* exchange(message, signal) {
  const id = nextId++;
  const queue = [];
  let wake = () => {};
  waiting.set(id, (answer) => {
    queue.push(answer);
    wake();
  });
  const cancel = () => window.model.send({ type: "cancel", id });
  signal?.addEventListener("abort", cancel);
  try {
    window.model.send({ ...message, id });
    for (;;) {
      while (queue.length === 0) await new Promise((resolve) => (wake = resolve));
      const answer = queue.shift();
      if (answer.type === "error") {
        if (answer.error.code === "ERR_REQUEST_CANCELLED") throw new DOMException("stopped", "AbortError");
        throw new Error(explain(answer.error));
      }
      if (answer.type === "done") return;
      yield answer;
    }
  } finally {
    signal?.removeEventListener("abort", cancel);
    waiting.delete(id);
  }
}

function ask({ model, messages, signal }) {
  return exchange({ type: "ask", messages, lora: model === base ? undefined : model, maxTokens: 400 }, signal);
}

/** What each state of the model looks like: a line, and whether that is an error. */
const lines = {
  "no-model": () => ["Open a model: a Hugging Face folder or a GGUF file."],
  "setup-needed": () => ["The runtime is not installed yet."],
  setup: ({ message }) => [message],
  "setup-failed": ({ error }) => [`The installation failed: ${explain(error)}`, true],
  loading: ({ step }) => [`Loading the model: ${step} …`],
  ready: ({ adapters }) => [`Ready. Adapters: ${adapters.join(", ") || "none"}.`],
  restarting: ({ attempt }) => [`The engine has crashed; it is started again (attempt ${attempt}).`, true],
  failed: ({ error }) => [explain(error), true],
};

function showState(state) {
  const { phase, model, adapters, fraction } = state;
  notify(...lines[phase](state));
  find("first-run").hidden = !["setup-needed", "setup", "setup-failed"].includes(phase);
  find("install").textContent = phase === "setup-failed" ? "Try again" : "Install";
  find("install").disabled = phase === "setup";
  find("progress").hidden = phase !== "setup";
  if (fraction !== undefined) find("progress").value = fraction;
  find("open-adapter").disabled = phase !== "ready";
  chat.setEnabled(phase === "ready");
  if (phase !== "ready") return;
  exits = 0;
  find("model").textContent = model;
  const names = [base, ...adapters];
  chat.setModels(names);
  if (chat.columns === 0) for (const name of names.slice(0, 3)) chat.addColumn(name);
}

function connect() {
  window.model.connect((message) => {
    if (message.type === "state") showState(message);
    else if (message.type === "ended") restart(message.code);
    else waiting.get(message.id)?.(message);
  });
}

/** The model's process is gone: running requests fail, and it is started again, after a growing pause. */
function restart(code) {
  chat.setEnabled(false);
  const error = { message: `the model's process has ended (${code})` };
  for (const tell of waiting.values()) tell({ type: "error", error });
  if (++exits > 5) return notify(`${error.message} five times: reload the window to try again.`, true);
  notify(`${error.message}; it is started again.`, true);
  setTimeout(connect, 500 * 2 ** exits);
}

async function open(what) {
  const path = await window.model.choose(what);
  if (path !== undefined) window.model.send({ type: "load", path });
}

find("open-folder").addEventListener("click", () => open("model"));
find("open-gguf").addEventListener("click", () => open("gguf"));
find("install").addEventListener("click", () => window.model.send({ type: "setup" }));
find("open-adapter").addEventListener("click", async () => {
  const path = await window.model.choose("adapter");
  if (path === undefined) return;
  try {
    for await (const _ of exchange({ type: "adapter", path }));
  } catch (error) {
    notify(error.message, true);
  }
});

connect();
