import type { ResponseStream } from "../server";
import { fromRequestFailure } from "./failure";
import { ResponseReader, type StreamChunk, type Usage } from "./results";

/** A streamed answer: iterate it once. Leaving the loop early, `cancel()` and `return()` end the request. */
export class GenerationStream implements AsyncIterableIterator<StreamChunk> {
  readonly #responses: ResponseStream;
  readonly #reader = new ResponseReader();
  #pending: StreamChunk[] = [];

  constructor(responses: ResponseStream) {
    this.#responses = responses;
  }

  /** The id that the request carries through Triton and vLLM. */
  get requestId(): string {
    return this.#responses.id;
  }

  /** Tokens so far. */
  get usage(): Usage {
    return this.#reader.usage;
  }

  async next(): Promise<IteratorResult<StreamChunk>> {
    while (this.#pending.length === 0) {
      let result: Awaited<ReturnType<ResponseStream["next"]>>;
      try {
        result = await this.#responses.next();
      } catch (error) {
        throw fromRequestFailure(error);
      }
      if (result.done) return { done: true, value: undefined };
      this.#pending = this.#reader.chunks(result.value);
    }
    return { done: false, value: this.#pending.shift() as StreamChunk };
  }

  async return(): Promise<IteratorResult<StreamChunk>> {
    this.#pending = [];
    await this.#responses.return();
    return { done: true, value: undefined };
  }

  /** Ends the request; a read that waits rejects with {@link RequestCancelledError}. */
  cancel(): void {
    this.#responses.cancel();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
