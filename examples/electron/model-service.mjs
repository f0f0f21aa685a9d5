// A model behind MessagePorts. A client sends
//   { type: "ask", id, prompt, lora, maxTokens }   { type: "cancel", id }
// and gets, until it closes its port,
//   { type: "state", phase, adapters | error }     as the model loads, and at once on connecting
//   { type: "text", id, text } ...                 then one of
//   { type: "done", id, finishReason, usage }      { type: "error", id, error: { code, message, hint } }
import { VllmModel } from "tritonode";

const describe = ({ code, message, hint }) => ({ code, message, hint });

export class ModelService {
  #state = { type: "state", phase: "start" };
  #model;
  #loading;
  #stop = new AbortController();
  /** Each client's running requests, by their ids. */
  #clients = new Map();

  constructor(options) {
    this.#loading = this.#load(options).catch((error) => this.#setState({ phase: "failed", error: describe(error) }));
  }

  async #load(options) {
    this.#model = await VllmModel.load({
      ...options,
      signal: this.#stop.signal,
      onProgress: ({ phase }) => {
        if (phase !== "ready") this.#setState({ phase });
      },
    });
    const adapters = (await this.#model.adapters.list()).map(({ name }) => name);
    this.#setState({ phase: "ready", adapters });
  }

  #setState(state) {
    this.#state = { type: "state", ...state };
    for (const port of this.#clients.keys()) port.postMessage(this.#state);
  }

  /** Takes a client's port: Node's MessagePort or Electron's MessagePortMain. */
  connect(port) {
    const requests = new Map();
    this.#clients.set(port, requests);
    port.on("message", (event) => {
      // Electron's port wraps the message in an event.
      const message = event.data ?? event;
      if (message.type === "ask") this.#answer(port, requests, message);
      if (message.type === "cancel") requests.get(message.id)?.abort();
    });
    // The window was closed or reloaded: nobody reads the answers any more.
    port.on("close", () => {
      this.#clients.delete(port);
      for (const request of requests.values()) request.abort();
    });
    port.start();
    port.postMessage(this.#state);
  }

  async #answer(port, requests, { id, prompt, lora, maxTokens }) {
    const request = new AbortController();
    requests.set(id, request);
    try {
      if (this.#state.phase !== "ready") {
        throw Object.assign(new Error("the model is not ready"), {
          code: "ERR_NOT_READY",
          hint: "wait for the state 'ready'",
        });
      }
      const options = { lora, max_tokens: maxTokens, signal: request.signal };
      let last;
      for await (const chunk of this.#model.stream(prompt, options)) {
        if (chunk.text !== "") port.postMessage({ type: "text", id, text: chunk.text });
        last = chunk;
      }
      port.postMessage({ type: "done", id, finishReason: last?.finishReason, usage: last?.usage });
    } catch (error) {
      port.postMessage({ type: "error", id, error: describe(error) });
    } finally {
      requests.delete(id);
    }
  }

  /** Cancels what runs, a load too, and unloads the model. */
  async stop() {
    this.#stop.abort();
    await this.#loading;
    await this.#model?.dispose();
    for (const port of this.#clients.keys()) port.close();
  }
}
