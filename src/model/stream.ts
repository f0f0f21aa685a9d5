import { RequestCancelledError } from "../errors";

/** The source of a {@link CancellableStream}. */
export interface StreamSource<Item, Final> {
  /** The next items in order; undefined at the end. It is not called again before its promise has settled. */
  pull(): Promise<readonly Item[] | undefined>;
  /** Cancels the request; items that `pull` returns afterwards are dropped. */
  cancel(): void;
  /** The whole answer; called once, after the end. */
  final(): Final | Promise<Final>;
}

/** Observes a stream, for tracing. */
export interface StreamWatcher<Item> {
  /** Items have arrived. */
  items(items: readonly Item[]): void;
  /** The stream has ended, completely or with the error. */
  ended(failure: { readonly error: unknown } | undefined): void;
}

interface Reader<Item> {
  resolve(result: IteratorResult<Item>): void;
  reject(error: unknown): void;
}

/**
 * The pieces of an answer, which can be iterated once. The request is cancelled by leaving the loop early, by
 * {@link CancellableStream.cancel}, `return()` and `await using`, and when the stream is garbage collected.
 *
 * Pieces are taken from the source only when they are read here, so that unread pieces can be joined at the source.
 */
export class CancellableStream<Item, Final> implements AsyncIterableIterator<Item>, AsyncDisposable {
  readonly #source: StreamSource<Item, Final>;
  readonly #watcher: StreamWatcher<Item> | undefined;
  /** Items that `final` has read ahead of the iterator. */
  readonly #items: Item[] = [];
  readonly #readers: Reader<Item>[] = [];
  #pulling = false;
  #ended = false;
  #error: unknown;
  #failed = false;
  /** The error was thrown; after that the iterator is done, as an async generator is. */
  #thrown = false;
  #final:
    | { promise: Promise<Final>; resolve(final: Final | Promise<Final>): void; reject(error: unknown): void }
    | undefined;

  /** @internal Made by a model: `model.stream`, `model.chatStream`. */
  constructor(source: StreamSource<Item, Final>, watcher?: StreamWatcher<Item>) {
    this.#source = source;
    this.#watcher = watcher;
  }

  /** Returns the next piece. Several calls may wait at once: each gets its own piece, in the order of the calls. */
  next(): Promise<IteratorResult<Item>> {
    if (this.#items.length > 0) return Promise.resolve({ done: false, value: this.#items.shift() as Item });
    if (this.#ended) {
      const first = this.#failed && !this.#thrown;
      this.#thrown = true;
      return first ? Promise.reject(this.#error) : Promise.resolve({ done: true, value: undefined });
    }
    return new Promise((resolve, reject) => {
      this.#readers.push({ resolve, reject });
      this.#pull();
    });
  }

  /** Cancels the request. Waiting reads end at once. */
  return(): Promise<IteratorResult<Item>> {
    this.#thrown = true;
    this.#items.length = 0;
    if (!this.#ended) {
      this.#fail(new RequestCancelledError("the stream was left before its end"));
      this.#source.cancel();
    }
    return Promise.resolve({ done: true, value: undefined });
  }

  /** Cancels the request. Waiting reads, and {@link CancellableStream.final}, reject with `reason`. */
  cancel(reason: Error = new RequestCancelledError()): void {
    if (this.#ended) return;
    this.#items.length = 0;
    this.#fail(reason);
    this.#source.cancel();
  }

  /**
   * Resolves with the whole answer at the end of the stream. Call it instead of iterating, or while iterating.
   *
   * @throws what iterating throws; {@link RequestCancelledError} if the stream was left before its end
   */
  final(): Promise<Final> {
    if (this.#final === undefined) {
      let resolve: (final: Final | Promise<Final>) => void = () => {};
      let reject: (error: unknown) => void = () => {};
      const promise = new Promise<Final>((first, second) => {
        resolve = first;
        reject = second;
      });
      this.#final = { promise, resolve, reject };
      if (this.#ended) this.#settleFinal();
      else this.#pull();
    }
    return this.#final.promise;
  }

  /** Returns the pieces as a web stream. Cancelling it cancels the request. */
  toReadableStream(): ReadableStream<Item> {
    return new ReadableStream<Item>(
      {
        pull: async (controller) => {
          const { done, value } = await this.next();
          if (done) controller.close();
          else controller.enqueue(value);
        },
        cancel: async () => {
          await this.return();
        },
      },
      { highWaterMark: 0 },
    );
  }

  /** Returns the stream itself, which can be iterated once. */
  [Symbol.asyncIterator](): this {
    return this;
  }

  /** Cancels the request, as `return()` does. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  #pull(): void {
    if (this.#pulling) return;
    this.#pulling = true;
    this.#source.pull().then(this.#take, this.#fail);
  }

  readonly #take = (items: readonly Item[] | undefined): void => {
    this.#pulling = false;
    if (this.#ended) return;
    if (items === undefined) {
      this.#end();
      return;
    }
    this.#watcher?.items(items);
    for (const value of items) {
      const reader = this.#readers.shift();
      if (reader === undefined) this.#items.push(value);
      else reader.resolve({ done: false, value });
    }
    if (this.#readers.length > 0 || this.#final !== undefined) this.#pull();
  };

  readonly #fail = (error: unknown): void => {
    if (this.#ended) return;
    this.#failed = true;
    this.#error = error;
    this.#end();
  };

  #end(): void {
    this.#ended = true;
    this.#watcher?.ended(this.#failed ? { error: this.#error } : undefined);
    for (const reader of this.#readers.splice(0)) {
      if (this.#failed && !this.#thrown) reader.reject(this.#error);
      else reader.resolve({ done: true, value: undefined });
      this.#thrown = true;
    }
    if (this.#final !== undefined) this.#settleFinal();
  }

  #settleFinal(): void {
    if (this.#failed) {
      this.#final?.reject(this.#error);
      return;
    }
    // A final() that throws rejects the promise.
    this.#final?.resolve((async () => this.#source.final())());
  }
}
