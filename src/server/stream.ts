import { onAbort } from "../common/abort";
import { callback } from "../common/callbacks";
import { DeadlineExceededError, RequestCancelledError, TritonServerError } from "../errors";
import type { CallHandler, InferenceResponse } from "../transport/channel";
import { fromResponse } from "../transport/failure";

/**
 * The responses of one request: iterate it, or await {@link ResponseStream.response} if there is only one.
 *
 * Leaving a `for await` early, `cancel()`, an aborted signal, a passed deadline, and losing the last reference to an
 * unfinished stream all cancel the request in Triton.
 */
export interface ResponseStream extends AsyncIterableIterator<InferenceResponse>, AsyncDisposable {
  /** The request's id: the one that the caller gave, or a generated one. */
  readonly id: string;
  /** Cancels the request. Pending and later reads reject with `reason`, by default a {@link RequestCancelledError}. */
  cancel(reason?: Error): void;
  /** Resolves with the first response, when the request has ended. Further responses are dropped. */
  response(): Promise<InferenceResponse>;
  /** Settles when the request has ended. Rejects with the error that iterating would throw. */
  readonly finished: Promise<void>;
  /** Cancels the request. */
  return(): Promise<IteratorResult<InferenceResponse>>;
}

export interface StreamOptions {
  readonly id: string;
  readonly model: string;
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds from now. */
  readonly deadline?: number | undefined;
  /** Called with each response as it arrives, instead of the iterator. `response` is undefined if the stream ends without one. */
  readonly onResponse?: ((response: InferenceResponse | undefined, final: boolean) => void) | undefined;
  /** Merges two unread responses, so that a consumer that stopped reading takes bounded memory. */
  readonly merge?:
    | ((earlier: InferenceResponse, later: InferenceResponse) => InferenceResponse | undefined)
    | undefined;
  /** The responses come through another channel: the request's own empty last response does not end the stream. */
  readonly delivered?: boolean;
  /** How many unread responses may accumulate before the request is cancelled. */
  readonly maxQueuedResponses: number;
}

interface Waiter {
  resolve(result: IteratorResult<InferenceResponse>): void;
  reject(error: Error): void;
  /** Keeps the consumer's side from being garbage-collected while it waits. */
  readonly owner: object;
}

// Cancels the request of a stream that was garbage-collected before its end.
const forgotten = new FinalizationRegistry<StreamState>((state) => state.fail(new RequestCancelledError()));

/** The part of a stream that Triton's side references. Not the stream itself, so that a forgotten one can be collected. */
export class StreamState implements CallHandler {
  readonly id: string;
  readonly model: string;
  readonly #options: StreamOptions;
  readonly #queue: InferenceResponse[] = [];
  readonly #waiters: Waiter[] = [];
  #timer: NodeJS.Timeout | undefined;
  #error: Error | undefined;
  #thrown = false;
  #ended = false;
  #endListener: (() => void) | undefined;
  #cancelNative: (() => void) | undefined;
  #stopWaiting: (() => void) | undefined;
  #settleFinished: { resolve(): void; reject(error: Error): void } | undefined;
  #finished: Promise<void> | undefined;

  constructor(options: StreamOptions) {
    this.id = options.id;
    this.model = options.model;
    this.#options = options;
  }

  /** Call this when the request runs; `cancel` cancels it in Triton. */
  begin(cancel: () => void): void {
    this.#cancelNative = cancel;
    const { signal, deadline } = this.#options;
    this.#stopWaiting = onAbort(signal, () => {
      this.fail(new RequestCancelledError("the request was aborted by its signal", { cause: signal?.reason }));
    });
    if (deadline !== undefined && !this.#ended) {
      this.#timer = setTimeout(() => this.fail(new DeadlineExceededError(deadline)), deadline);
    }
  }

  /** Calls `listener` once when the stream has ended, for whatever reason. */
  onEnd(listener: () => void): void {
    this.#endListener = listener;
  }

  /** Ends the stream with an error and cancels the request. Does nothing if the stream has ended. */
  fail(error: Error): void {
    if (this.#ended) return;
    this.#error = error;
    this.#queue.length = 0;
    const cancel = this.#cancelNative;
    this.#end();
    cancel?.();
  }

  onResponse(response: InferenceResponse | undefined, final: boolean): void {
    if (this.#ended || (response === undefined && this.#options.delivered)) return;
    const { onResponse } = this.#options;
    if (onResponse !== undefined) {
      // Other streams of the same batch continue.
      const returned = this.#call("onResponse", onResponse, () => onResponse(response, final));
      if (!returned) return;
    } else if (response !== undefined) {
      this.#enqueue(response);
    }
    if (final) this.#end();
  }

  onFailure(code: string, message: string, final: boolean): void {
    if (this.#ended) return;
    this.#error = fromResponse(this.model, code, message);
    const cancel = this.#cancelNative;
    this.#end();
    if (!final) cancel?.();
  }

  /** Calls one of the user's callbacks; if it throws, the request fails. */
  #call(name: string, owner: object, call: () => void): boolean {
    const error = callback(name, owner, call);
    if (error === undefined) return true;
    this.fail(new RequestCancelledError(`the request's ${name} threw`, { cause: error.cause }));
    return false;
  }

  #enqueue(response: InferenceResponse): void {
    const waiter = this.#waiters.shift();
    if (waiter !== undefined) {
      waiter.resolve({ done: false, value: response });
      return;
    }
    const last = this.#queue.at(-1);
    const { merge } = this.#options;
    let merged: InferenceResponse | undefined;
    if (last !== undefined && merge !== undefined) {
      const returned = this.#call("merge", merge, () => {
        merged = merge(last, response);
      });
      if (!returned) return;
    }
    if (merged !== undefined) {
      this.#queue[this.#queue.length - 1] = merged;
      return;
    }
    if (this.#queue.length >= this.#options.maxQueuedResponses) {
      this.fail(
        new TritonServerError("UNAVAILABLE", `${this.#queue.length} responses of request '${this.id}' wait unread`, {
          hint: "read the stream faster, pass `merge`, or raise `maxQueuedResponses`",
        }),
      );
      return;
    }
    this.#queue.push(response);
  }

  #end(): void {
    this.#ended = true;
    this.#cancelNative = undefined;
    this.#endListener?.();
    clearTimeout(this.#timer);
    this.#stopWaiting?.();
    for (const waiter of this.#waiters.splice(0)) {
      // The error is thrown once; after that the iterator is done, like that of an async generator.
      if (this.#error === undefined || this.#thrown) waiter.resolve({ done: true, value: undefined });
      else waiter.reject(this.#error);
      this.#thrown = true;
    }
    if (this.#error === undefined) this.#settleFinished?.resolve();
    else this.#settleFinished?.reject(this.#error);
  }

  next(owner: object): Promise<IteratorResult<InferenceResponse>> {
    const response = this.#queue.shift();
    if (response !== undefined) return Promise.resolve({ done: false, value: response });
    if (this.#error !== undefined && !this.#thrown) {
      this.#thrown = true;
      return Promise.reject(this.#error);
    }
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.#waiters.push({ resolve, reject, owner }));
  }

  /** The consumer stops reading. */
  leave(): void {
    if (this.#ended) {
      this.#queue.length = 0;
      this.#thrown = true;
      return;
    }
    const cancel = this.#cancelNative;
    this.#queue.length = 0;
    this.#end();
    cancel?.();
  }

  get finished(): Promise<void> {
    if (this.#finished === undefined) {
      this.#finished = new Promise((resolve, reject) => {
        if (!this.#ended) this.#settleFinished = { resolve, reject };
        else if (this.#error === undefined) resolve();
        else reject(this.#error);
      });
    }
    return this.#finished;
  }
}

/** The consumer's side of a stream. */
export class Responses implements ResponseStream {
  readonly id: string;
  readonly #state: StreamState;

  constructor(state: StreamState, collectable: boolean) {
    this.id = state.id;
    this.#state = state;
    if (collectable) forgotten.register(this, state, this);
  }

  cancel(reason: Error = new RequestCancelledError()): void {
    this.#state.fail(reason);
  }

  get finished(): Promise<void> {
    // `finished` can be awaited without keeping a reference to the stream.
    forgotten.unregister(this);
    return this.#state.finished;
  }

  next(): Promise<IteratorResult<InferenceResponse>> {
    return this.#state.next(this);
  }

  async return(): Promise<IteratorResult<InferenceResponse>> {
    this.#state.leave();
    return { done: true, value: undefined };
  }

  async response(): Promise<InferenceResponse> {
    const first = await this.#state.next(this);
    if (first.done === true) throw new TritonServerError("INTERNAL", `request '${this.id}' ended without a response`);
    while ((await this.#state.next(this)).done !== true) {
      // Reads to the end, so that a late error is not lost.
    }
    return first.value;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#state.leave();
  }
}
