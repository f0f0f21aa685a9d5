import { randomUUID } from "node:crypto";
import { callback } from "../common/callbacks";
import { checkLimit } from "../common/duration";
import { type EngineDiedError, RequestCancelledError } from "../errors";
import type { CallHandler, Channel } from "../transport/channel";
import { fromNative } from "../transport/failure";
import { type InferenceRequest, toNativeRequest } from "./request";
import { type ResponseStream, Responses, StreamState } from "./stream";

/** A request with settings for this package's own layers only. */
export interface CallRequest extends InferenceRequest {
  /** Called once if the request is cancelled while it runs, after Triton was told. Some backends have a faster way to be told. */
  readonly onCancel?: (() => void) | undefined;
  /** The request stays open as long as its model is used. It does not keep the process alive, and nothing waits for it. */
  readonly background?: boolean | undefined;
  /**
   * Called with the handler of this request's responses, for a model that sends them through another channel and ends this
   * request with an empty response, which is ignored. Returns a function to call at the end.
   */
  readonly deliver?: ((handler: CallHandler) => () => void) | undefined;
}

interface Call {
  readonly model: string;
  readonly number: number;
  readonly background: boolean;
  readonly state: StreamState;
  /** When it was sent, on the clock of `performance.now()`. */
  readonly since: number;
}

/** The requests that one user of the server has sent and that are still running. */
export class Calls {
  readonly #channel: Channel;
  readonly #death: (model: string) => EngineDiedError | undefined;
  readonly #calls = new Map<number, Call>();
  /** How many of these are not in the background. */
  #running = 0;

  /** @param death - why a model takes no requests, if its child died */
  constructor(channel: Channel, death: (model: string) => EngineDiedError | undefined) {
    this.#channel = channel;
    this.#death = death;
  }

  /** How many run; those in the background do not count. */
  get running(): number {
    return this.#running;
  }

  /** See {@link TritonServer.infer}. */
  infer(request: CallRequest): ResponseStream {
    const id = request?.id ?? randomUUID();
    const native = toNativeRequest(request, id, request?.background ?? false);
    const state = new StreamState({
      id,
      model: request.model,
      signal: request.signal,
      deadline: checkLimit("deadline", request.deadline),
      onResponse: request.onResponse,
      merge: request.merge,
      delivered: request.deliver !== undefined,
      maxQueuedResponses: request.maxQueuedResponses ?? 65_536,
    });
    const stream = new Responses(state, request.onResponse === undefined);
    const dead = this.#death(request.model);
    if (dead !== undefined) {
      state.fail(dead);
      return stream;
    }
    if (request.signal?.aborted) {
      state.fail(new RequestCancelledError("the request was aborted by its signal", { cause: request.signal.reason }));
      return stream;
    }
    try {
      this.#start(this.#channel.addon.infer(native), request, state);
    } catch (error) {
      state.fail(fromNative(error));
    }
    return stream;
  }

  #start(number: number, { model, background = false, deliver, onCancel }: CallRequest, state: StreamState): void {
    this.#calls.set(number, { model, number, background, state, since: performance.now() });
    if (!background) this.#running++;
    const endDelivery = deliver === undefined ? undefined : this.#deliver(deliver, state);
    state.onEnd(() => {
      this.#calls.delete(number);
      if (!background) this.#running--;
      endDelivery?.();
    });
    this.#channel.addCall(number, state);
    state.begin(() => {
      this.#channel.addon.cancel(number);
      if (onCancel !== undefined) callback("onCancel", onCancel, onCancel);
    });
  }

  /** Receives the responses through another channel. Triton may end the request before the last of them has arrived. */
  #deliver(deliver: NonNullable<CallRequest["deliver"]>, state: StreamState): () => void {
    const end = deliver(state);
    this.#channel.addon.hold();
    return () => {
      this.#channel.addon.unhold();
      end();
    };
  }

  /** Cancels every request, and with `background` those in the background too. Each rejects with `reason`. */
  cancelAll(reason: Error, { background }: { background: boolean }): void {
    for (const call of [...this.#calls.values()]) {
      if (background || !call.background) call.state.fail(reason);
    }
  }

  /** Resolves when no request runs, apart from those in the background. */
  async drained(): Promise<void> {
    while (this.#running > 0) {
      const running = [...this.#calls.values()].filter((call) => !call.background);
      await Promise.allSettled(running.map(({ state }) => state.finished));
    }
  }

  /** Call this when the model's child is gone: all of the model's requests fail. */
  modelDied(model: string, error: EngineDiedError): void {
    for (const call of [...this.#calls.values()]) {
      if (call.model === model) call.state.fail(error);
    }
    this.#channel.abandonCalls(model);
  }

  /**
   * Call this when a child is gone that another one replaced at `since`: requests sent before that fail. Usually there are
   * none.
   */
  childReplaced(model: string, error: EngineDiedError, since: number): void {
    const lost = [...this.#calls.values()].filter((call) => call.model === model && call.since < since);
    if (lost.length === 0) return;
    for (const { state } of lost) state.fail(error);
    this.#channel.abandonCalls(model, new Set(lost.map(({ number }) => number)));
  }
}
