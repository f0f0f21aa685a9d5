// A model behind MessagePorts. A client sends
//   { type: "load", path }                  another model: a folder, a GGUF file or a model repository
//   { type: "setup" }                       installs the runtime, then loads the model
//   { type: "adapter", id, path }           loads an adapter under its folder's name, or replaces the one of that name
//   { type: "ask", id, messages, lora, maxTokens }        { type: "cancel", id }
// and gets, until it closes its port,
//   { type: "state", phase, ... }           at once on connecting, and at each change:
//       "no-model", "setup-needed", "setup" (message, fraction), "setup-failed" (error), "loading" (step),
//       "ready" (adapters), "restarting" (attempt), "failed" (error)
//   { type: "text", id, text, tokens } ...  and then for each id one of
//   { type: "done", id, finishReason, usage }             { type: "error", id, error: { code, message, hint } }
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { setup, VllmModel } from "tritonode";

const describe = ({ code, message, hint }) => ({ code, message, hint });

/** Options of VllmModel.load for what a user chooses. */
function loadOptions(path) {
  // A model repository has no config.json of its own; its model.json says whether it takes adapters.
  if (!path.endsWith(".gguf") && !existsSync(join(path, "config.json"))) return { modelRepository: path };
  return { engine: { model: path, enable_lora: true, max_loras: 4, max_lora_rank: 64 }, loras: {} };
}

export class ModelService {
  #state = { type: "state", phase: "no-model" };
  #path;
  #model;
  #work = Promise.resolve();
  #stop = new AbortController();
  /** Each client's running requests, by their ids. */
  #clients = new Map();
  /** The running answers. */
  #answers = new Set();

  /** @param path - the model's; an empty one waits for a client to choose */
  constructor(path) {
    this.#path = path;
    this.#do(() => this.#load());
  }

  /** Runs one load or installation after the other; an error becomes the state. */
  #do(work) {
    this.#work = this.#work.then(work).catch((error) => {
      if (error.code === "ERR_RUNTIME_MISSING") this.#setState({ phase: "setup-needed" });
      else this.#setState({ phase: "failed", error: describe(error) });
    });
  }

  async #load() {
    await this.#model?.dispose();
    this.#model = undefined;
    if (this.#path === "") return this.#setState({ phase: "no-model" });
    this.#setState({ phase: "loading", step: "start" });
    const model = await VllmModel.load({
      ...loadOptions(this.#path),
      restart: "on-failure",
      signal: this.#stop.signal,
      onProgress: ({ phase }) => {
        if (phase !== "ready") this.#setState({ phase: "loading", step: phase });
      },
    });
    this.#model = model;
    model.on("adapter", () => this.#ready());
    model.on("restart", ({ phase, attempt, error }) => {
      if (phase === "ready") this.#ready();
      else if (phase === "stopped") this.#setState({ phase: "failed", error: describe(error) });
      else this.#setState({ phase: "restarting", attempt });
    });
    await this.#ready();
  }

  async #ready() {
    try {
      const adapters = (await this.#model.adapters.list()).map(({ name }) => name);
      this.#setState({ phase: "ready", model: basename(this.#path), adapters });
    } catch {
      // The engine has died or was unloaded: the next event says so.
    }
  }

  async #setup() {
    this.#setState({ phase: "setup", message: "Starting", fraction: 0 });
    try {
      await setup({
        signal: this.#stop.signal,
        onProgress: ({ message, index, count, receivedBytes = 0, totalBytes }) => {
          // Packages that are done, and the part of the current one.
          const part = totalBytes ? receivedBytes / totalBytes : 0;
          this.#setState({ phase: "setup", message, fraction: count ? (index - 1 + part) / count : 0 });
        },
      });
    } catch (error) {
      return this.#setState({ phase: "setup-failed", error: describe(error) });
    }
    await this.#load();
  }

  #setState(state) {
    this.#state = { type: "state", ...state };
    for (const port of this.#clients.keys()) port.postMessage(this.#state);
  }

  /** Connects a client's port: Node's MessagePort or Electron's MessagePortMain. */
  connect(port) {
    const requests = new Map();
    this.#clients.set(port, requests);
    port.on("message", (event) => {
      // Electron's port wraps the message in an event.
      const message = event.data ?? event;
      if (message.type === "ask") this.#keep(this.#answer(port, requests, message));
      if (message.type === "adapter") this.#loadAdapter(port, message);
      if (message.type === "cancel") requests.get(message.id)?.abort();
      if (message.type === "setup") this.#do(() => this.#setup());
      if (message.type === "load") {
        this.#path = message.path;
        this.#do(() => this.#load());
      }
    });
    // The window was closed or reloaded: nobody reads the answers any more.
    port.on("close", () => {
      this.#clients.delete(port);
      for (const request of requests.values()) request.abort();
    });
    port.start();
    port.postMessage(this.#state);
  }

  /** The model, if it is ready. */
  #served() {
    if (this.#state.phase === "ready") return this.#model;
    throw Object.assign(new Error("the model is not ready"), {
      code: "ERR_NOT_READY",
      hint: "wait for the state 'ready'",
    });
  }

  async #answer(port, requests, { id, messages, lora, maxTokens }) {
    const request = new AbortController();
    requests.set(id, request);
    try {
      // Every piece has the number of tokens so far.
      const live = { stream_options: { continuous_usage_stats: true } };
      const options = { lora, max_tokens: maxTokens, signal: request.signal, ...live };
      let last;
      for await (const chunk of this.#served().chatStream(messages, options)) {
        port.postMessage({ type: "text", id, text: chunk.text, tokens: chunk.usage?.completionTokens ?? 0 });
        last = { ...last, ...chunk, finishReason: chunk.finishReason ?? last?.finishReason };
      }
      port.postMessage({ type: "done", id, finishReason: last?.finishReason, usage: last?.usage });
    } catch (error) {
      port.postMessage({ type: "error", id, error: describe(error) });
    } finally {
      requests.delete(id);
    }
  }

  async #loadAdapter(port, { id, path }) {
    try {
      const { adapters } = this.#served();
      const name = basename(path);
      const known = (await adapters.list()).some((adapter) => adapter.name === name);
      await (known ? adapters.replace(name, path) : adapters.load(name, path));
      port.postMessage({ type: "done", id });
    } catch (error) {
      port.postMessage({ type: "error", id, error: describe(error) });
    }
  }

  async #keep(answer) {
    this.#answers.add(answer);
    await answer;
    this.#answers.delete(answer);
  }

  /** Cancels everything that runs, including a load, tells the clients, and unloads the model. */
  async stop() {
    this.#stop.abort();
    for (const requests of this.#clients.values()) for (const request of requests.values()) request.abort();
    await Promise.all([this.#work, ...this.#answers]);
    await this.#model?.dispose();
    for (const port of this.#clients.keys()) port.close();
  }
}
