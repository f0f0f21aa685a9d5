import { randomBytes } from "node:crypto";
import { DisposedError, RequestCancelledError } from "../errors";
import type { InferenceRequest, ResponseStream } from "../server";
import type { CallRequest } from "../server/calls";
import type { ServerCore } from "../server/core";
import { DeltaChannel, type ReadEntry } from "../transport/deltas";
import { BackendFeatureError, type BackendInputs, inputsOf, toContract } from "./contract";
import { control } from "./control";

/** Request parameters that only this package sends to its own backend (backends/vllm/tritonode). */
const parameters = {
  /** Names a request for the `cancel` operation. */
  cancelToken: "tritonode_cancel_token",
  /** Opens a channel with this name. */
  openChannel: "tritonode_open_channel",
  /** Sends the responses through the channel with this name. */
  channel: "tritonode_channel",
} as const;

/** A request to the model's backend. Every call of a model sends one. */
export type BackendRequest = Pick<
  InferenceRequest,
  "id" | "inputs" | "outputs" | "parameters" | "raw" | "signal" | "deadline" | "merge"
> & {
  /** Reads responses from the channel; without it no response comes through the channel. */
  readonly read?: ReadEntry | undefined;
};

/** A model's backend in its Python child, as one VllmModel talks to it. */
export class Backend {
  readonly #core: ServerCore;
  readonly #model: string;
  readonly #channel: DeltaChannel;
  // The threads of a process share models, so tokens must differ between threads.
  readonly #tokenPrefix = `${randomBytes(6).toString("hex")}-`;
  #nextToken = 1;
  /** The contract of another backend; undefined for this package's own. */
  #foreign: BackendInputs | undefined;
  readonly #cancelled: string[] = [];
  #closed = false;

  constructor(core: ServerCore, model: string) {
    this.#core = core;
    this.#model = model;
    this.#channel = new DeltaChannel(model, core.privateDirectory, (name, onAnswer) =>
      this.#openChannel(name, onAnswer),
    );
  }

  /**
   * Finds out which backend serves the model, and opens the channel. Requests that are sent earlier do not use it.
   *
   * Any other backend would treat the request that opens a channel as a prompt, and answer it.
   */
  async open(): Promise<void> {
    const inputs = inputsOf(await this.#core.ask((addon) => addon.modelConfig(this.#model)));
    if (!inputs.own) this.#foreign = inputs;
    else await this.#channel.open();
  }

  /** Accepts no further requests. Running requests continue. */
  close(): void {
    this.#closed = true;
  }

  /** Cancels the running requests, or waits up to `deadline` milliseconds until they finish; then closes the channel. */
  async end({ drain, deadline }: { drain: boolean; deadline: number | undefined }): Promise<void> {
    this.close();
    const cancel = () => this.#core.cancelAll(new RequestCancelledError("the model was disposed of"));
    if (!drain) cancel();
    const timer = drain && deadline !== undefined ? setTimeout(cancel, deadline) : undefined;
    await this.#core.drained();
    clearTimeout(timer);
    this.#channel.close();
  }

  /** Sends a request. @throws {@link DisposedError}, and errors of sending it */
  send({ read, ...request }: BackendRequest): ResponseStream {
    if (this.#foreign !== undefined) return this.#sendContract(request, this.#foreign);
    const channel = read === undefined ? undefined : this.#channel.name;
    if (read === undefined || channel === undefined) return this.#send(request, () => ({}));
    const named = { ...request, parameters: { ...request.parameters, [parameters.channel]: channel } };
    return this.#send(named, (token) => ({ deliver: (handler) => this.#channel.add(token, handler, read) }));
  }

  /** Cancels only through Triton, which another backend checks. */
  #sendContract(request: BackendRequest, foreign: BackendInputs): ResponseStream {
    if (this.#closed) throw new DisposedError(`the model '${this.#model}'`);
    if (request.inputs?.some(({ name }) => name === "http_request")) {
      throw new BackendFeatureError("OpenAI-compatible application (fetch, chat, embed, tokenize)");
    }
    return this.#core.infer({ ...toContract(request, foreign), model: this.#model });
  }

  /** @param more - further settings of the request, given its token */
  #send(request: BackendRequest, more: (token: string) => Partial<CallRequest>): ResponseStream {
    if (this.#closed) throw new DisposedError(`the model '${this.#model}'`);
    const token = `${this.#tokenPrefix}${this.#nextToken++}`;
    return this.#core.infer({
      ...request,
      model: this.#model,
      parameters: { ...request.parameters, [parameters.cancelToken]: token },
      onCancel: () => this.#cancelSoon(token),
      ...more(token),
    });
  }

  /** Sends a message about a running request. Works after `close`, while requests still run. */
  tell(request: BackendRequest): ResponseStream {
    return this.#core.infer({ ...request, model: this.#model });
  }

  /** Runs a control operation (tritonode/triton/control.py). @throws {@link DisposedError} */
  async control(operation: Readonly<Record<string, unknown>>): Promise<unknown> {
    if (this.#closed) throw new DisposedError(`the model '${this.#model}'`);
    if (this.#foreign !== undefined) {
      const adapters = String(operation["op"]).startsWith("adapters.");
      throw new BackendFeatureError(adapters ? "adapters that can be changed or listed at run time" : "info operation");
    }
    return this.#control(operation);
  }

  #control(operation: Readonly<Record<string, unknown>>): Promise<unknown> {
    return control(this.#core, this.#model, operation);
  }

  #openChannel(name: string, onAnswer: () => void): ResponseStream {
    return this.#send(
      {
        inputs: [{ name: "text_input", datatype: "BYTES", data: [""] }],
        outputs: ["text_output"],
        parameters: { [parameters.openChannel]: name },
      },
      () => ({
        background: true,
        onResponse: (response) => {
          if (response !== undefined) onAnswer();
        },
      }),
    );
  }

  /**
   * Tells the backend which requests were cancelled. The backend could ask Triton, but only by checking each running request.
   * All requests that are cancelled in one iteration of the event loop are sent together.
   */
  #cancelSoon(token: string): void {
    if (this.#cancelled.push(token) > 1) return;
    queueMicrotask(() => {
      const tokens = this.#cancelled.splice(0);
      // If the model is gone, there is nothing left to cancel.
      this.#control({ op: "cancel", tokens }).catch(() => {});
    });
  }
}
