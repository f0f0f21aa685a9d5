import { unlessAborted } from "../common/abort";
import { describe } from "../common/describe";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError, RequestCancelledError } from "../errors";
import type { ChatMessageLike } from "./openai/chat-types";
import { checkSignal } from "./options";

/** Options of {@link VllmModel.map} besides those of each request. */
export interface MapOptions {
  /** Requests that run at the same time. Default 16; vLLM itself takes up to `max_num_seqs` in one batch. */
  readonly concurrency?: number | undefined;
  /** Aborting it cancels the running requests, and the iteration rejects with {@link RequestCancelledError}. */
  readonly signal?: AbortSignal | undefined;
}

/** The result of one item: its answer, or its error. An error does not stop the other items. */
export type MapResult<Item, Result> =
  | { readonly index: number; readonly item: Item; readonly ok: true; readonly result: Result }
  | { readonly index: number; readonly item: Item; readonly ok: false; readonly error: unknown };

/** An iterable of items, or an async iterable that is read as items are needed. */
export type MapSource<Item> = Iterable<Item> | AsyncIterable<Item>;

export interface CheckedMap {
  readonly concurrency: number;
  readonly signal: AbortSignal | undefined;
}

/** @throws {@link InvalidArgumentError} naming the option, before anything is read. */
export function checkMap(source: unknown, options: MapOptions, requests: unknown = {}): CheckedMap {
  const iterable =
    typeof source === "object" && source !== null && (Symbol.iterator in source || Symbol.asyncIterator in source);
  if (!iterable) {
    throw new InvalidArgumentError(`map takes an iterable or async iterable of prompts, got ${describe(source)}`);
  }
  checkRequests(requests);
  checkNames("map", options, ["concurrency", "signal"]);
  const { concurrency = 16 } = options;
  if (!Number.isSafeInteger(concurrency) || concurrency < 1) {
    throw new InvalidArgumentError(`concurrency must be a whole number of at least 1, got ${describe(concurrency)}`);
  }
  return { concurrency, signal: checkSignal(options.signal) };
}

/** Refuses what would otherwise fail every item. @throws {@link InvalidArgumentError} */
function checkRequests(options: unknown): void {
  if (typeof options === "function") return;
  if (typeof options !== "object" || options === null) {
    throw new InvalidArgumentError(
      `the options of the requests must be an object or a function, got ${describe(options)}`,
    );
  }
  const { concurrency } = options as { concurrency?: unknown };
  if (concurrency === undefined) return;
  throw new InvalidArgumentError(`concurrency is an option of map, not of its requests: ${String(concurrency)}`, {
    hint: `pass it as the third argument: model.map(prompts, { max_tokens: 50 }, { concurrency: ${String(concurrency)} })`,
  });
}

/**
 * Runs a request for each item and yields the results in the order of the items. Up to `concurrency` requests run at once. If as
 * many results wait for an earlier one or for the reader, nothing more is read from the source.
 *
 * @param run - sends the request of an item; its signal ends it
 * @throws what the source throws, after the results of the items before it
 */
export async function* mapInOrder<Item, Result>(
  source: MapSource<Item>,
  run: (item: Item, index: number, signal: AbortSignal) => Promise<Result>,
  { concurrency, signal }: CheckedMap,
): AsyncGenerator<MapResult<Item, Result>, void, undefined> {
  const left = new AbortController();
  const ended = signal === undefined ? left.signal : AbortSignal.any([signal, left.signal]);
  const aborted = () => new RequestCancelledError("the map was aborted by its signal", { cause: signal?.reason });
  const iterator = iteratorOf(source);
  /** The results in order, including those that are not there yet. */
  const results: Promise<MapResult<Item, Result>>[] = [];
  const [room, news] = [new Bell(), new Bell()];
  let running = 0;
  let reading = true;

  const settle = async (item: Item, index: number): Promise<MapResult<Item, Result>> => {
    try {
      return { index, item, ok: true, result: await run(item, index, ended) };
    } catch (error) {
      return { index, item, ok: false, error };
    } finally {
      running--;
      room.ring();
    }
  };
  const read = async (): Promise<void> => {
    try {
      for (let index = 0; !ended.aborted; ) {
        if (running >= concurrency || results.length >= 2 * concurrency) {
          await room.rung();
          continue;
        }
        const next = await iterator.next();
        if (next.done === true || ended.aborted) return;
        running++;
        results.push(settle(next.value, index++));
        news.ring();
      }
    } finally {
      reading = false;
      news.ring();
    }
  };
  const readToEnd = read();
  // Thrown below, after the results of the items before it.
  readToEnd.catch(() => {});
  try {
    for (;;) {
      const first = results[0];
      if (first === undefined) {
        if (!reading) break;
        await unlessAborted(news.rung(), signal, aborted);
        continue;
      }
      const result = await unlessAborted(first, signal, aborted);
      // A request that was cancelled by the signal has no result.
      if (signal?.aborted) throw aborted();
      results.shift();
      room.ring();
      yield result;
    }
    await readToEnd;
    if (signal?.aborted) throw aborted();
  } finally {
    left.abort();
    room.ring();
    // Not awaited: an async generator that waits for its own next item ends only after that.
    void Promise.resolve(iterator.return?.()).catch(() => {});
  }
}

/** Wakes one waiter. */
class Bell {
  #wake: () => void = () => {};

  /** Resolves when the bell is rung next. */
  rung(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  ring(): void {
    this.#wake();
  }
}

function iteratorOf<Item>(source: MapSource<Item>): AsyncIterator<Item> | Iterator<Item> {
  return Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
}

/** Whether an item of a map is a conversation, and not token ids. */
export function isConversation(item: unknown): item is readonly ChatMessageLike[] {
  return Array.isArray(item) && typeof item[0] === "object";
}

export function joinSignals(given: AbortSignal | undefined, signal: AbortSignal): AbortSignal {
  return given === undefined ? signal : AbortSignal.any([given, signal]);
}
