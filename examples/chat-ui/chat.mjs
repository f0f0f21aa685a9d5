// Chats side by side: one question, a column for each adapter. The pages of examples/web-chat and examples/electron are
// made of it; each brings its own way to the model:
//   ask({ model, messages, signal }) gives pieces { text, tokens } as they come, `tokens` being the answer's tokens so far.
import { Column } from "./column.mjs";

const find = (id) => document.getElementById(id);

export class Chat {
  #ask;
  #models = [];
  #columns = [];
  #running;
  #enabled = true;

  constructor(ask) {
    this.#ask = ask;
    const question = find("question");
    find("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(question);
    });
    question.addEventListener("keydown", (event) => {
      // Enter while an input method composes a character confirms the character.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      find("ask").requestSubmit();
    });
    find("stop").addEventListener("click", () => this.#running?.abort());
    find("add").addEventListener("click", () => {
      this.addColumn(this.#models[this.#columns.length % this.#models.length]).focus();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.#running?.abort();
    });
  }

  /** What the menus offer: the base model's name and those of its adapters. */
  setModels(names) {
    this.#models = names;
    for (const column of this.#columns) column.setModels(names);
  }

  /** Whether questions can be asked: not while a model loads. */
  setEnabled(enabled) {
    this.#enabled = enabled;
    this.#update();
  }

  get columns() {
    return this.#columns.length;
  }

  addColumn(model) {
    const column = new Column(this.#models, model, () => this.#remove(column));
    this.#columns.push(column);
    find("columns").append(column.element);
    this.#update();
    return column;
  }

  #remove(column) {
    const index = this.#columns.indexOf(column);
    this.#columns.splice(index, 1);
    column.close();
    // The focus goes to a neighbour, not to the top of the page.
    (this.#columns[Math.min(index, this.#columns.length - 1)] ?? find("add")).focus();
    this.#update();
  }

  async #submit(question) {
    const content = question.value.trim();
    if (content === "" || !this.#canAsk()) return;
    question.value = "";
    this.#running = new AbortController();
    this.#update();
    // The button that had the focus is disabled now.
    question.focus();
    // All columns at once: vLLM answers them in one batch, each row with its own adapter.
    await Promise.all(this.#columns.map((column) => column.ask(content, this.#ask, this.#running.signal)));
    this.#running = undefined;
    this.#update();
  }

  #canAsk() {
    return this.#enabled && this.#running === undefined && this.#columns.length > 0;
  }

  #update() {
    find("send").disabled = !this.#canAsk();
    find("stop").disabled = this.#running === undefined;
    find("add").disabled = this.#models.length === 0;
  }
}

/** Shows a line under the columns; screen readers read it. */
export function notify(text, isError = false) {
  const notice = find("notice");
  notice.textContent = text;
  notice.className = isError ? "error" : "";
}
