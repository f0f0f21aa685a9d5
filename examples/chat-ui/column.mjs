// One conversation with the model or with one of its adapters.
const announcements = 6;
let columns = 0;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Tells screen readers of a whole answer: read piece by piece, three answers at once would be noise. */
function announce(text) {
  const log = document.getElementById("announcements");
  log.append(make("p", { textContent: text }));
  while (log.children.length > announcements) log.firstChild.remove();
}

export class Column {
  element;
  #menu = make("select", { ariaLabel: "Model" });
  #speed = make("p", { className: "speed" });
  #list = make("ol", { className: "messages", tabIndex: 0 });
  /** The conversation as the model is given it. */
  #messages = [];
  #closed = new AbortController();

  constructor(models, model, onRemove) {
    const number = ++columns;
    this.#list.ariaLabel = `Conversation ${number}`;
    const remove = make("button", { type: "button", textContent: "✕", ariaLabel: `Remove column ${number}` });
    remove.addEventListener("click", onRemove);
    const heading = make("h2", { className: "for-screen-readers", textContent: `Column ${number}` });
    this.element = make("section", { className: "column", ariaLabel: `Column ${number}` });
    this.element.append(heading, make("header", {}, this.#menu, remove, this.#speed), this.#list);
    this.setModels(models);
    if (model !== undefined) this.#menu.value = model;
  }

  setModels(names) {
    const chosen = this.#menu.value;
    this.#menu.replaceChildren(...names.map((name) => new Option(name)));
    if (names.includes(chosen)) this.#menu.value = chosen;
  }

  focus() {
    this.#menu.focus();
    this.element.scrollIntoView({ inline: "nearest", block: "nearest" });
  }

  close() {
    this.#closed.abort();
    this.element.remove();
  }

  /** Asks the model and shows its answer as it comes. Rejects never: what failed is shown. */
  async ask(content, ask, signal) {
    const model = this.#menu.value;
    this.#add("user", content);
    const question = { role: "user", content };
    const item = this.#add("assistant busy", "");
    let first;
    let tokens = 0;
    try {
      const messages = [...this.#messages, question];
      const request = { model, messages, signal: AbortSignal.any([signal, this.#closed.signal]) };
      for await (const piece of ask(request)) {
        item.append(piece.text);
        tokens = piece.tokens;
        // The first token's time is the prompt's; the speed is that of the tokens after it.
        first ??= { at: performance.now(), tokens };
        this.#showSpeed(tokens, first);
        this.#list.scrollTop = this.#list.scrollHeight;
      }
      announce(`${model} answered: ${item.textContent}`);
    } catch (error) {
      if (error.name === "AbortError") {
        this.#speed.append(" · stopped");
        announce(`${model}: stopped`);
      } else {
        this.#add("error", error.message);
        announce(`${model} failed: ${error.message}`);
      }
    }
    item.classList.remove("busy");
    // A question without an answer is not part of the conversation.
    if (item.textContent !== "") this.#messages.push(question, { role: "assistant", content: item.textContent });
    else item.remove();
  }

  #showSpeed(tokens, first) {
    const seconds = (performance.now() - first.at) / 1000;
    const speed =
      tokens > first.tokens && seconds > 0 ? `${((tokens - first.tokens) / seconds).toFixed(0)} tokens/s` : "";
    this.#speed.textContent = [`${tokens} tokens`, speed].filter(Boolean).join(" · ");
  }

  #add(className, text) {
    const item = make("li", { className, textContent: text });
    this.#list.append(item);
    this.#list.scrollTop = this.#list.scrollHeight;
    return item;
  }
}
