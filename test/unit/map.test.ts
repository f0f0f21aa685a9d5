import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { InvalidArgumentError, RequestCancelledError } from "../../src";
import { checkMap, mapInOrder } from "../../src/model/map";

/** Requests that end when the test says so. */
class Requests {
  readonly started: number[] = [];
  readonly aborted: number[] = [];
  readonly #ends = new Map<number, (error?: Error) => void>();
  most = 0;

  readonly run = (item: number, _: number, signal: AbortSignal): Promise<string> => {
    this.started.push(item);
    this.most = Math.max(this.most, this.#ends.size + 1);
    return new Promise((resolve, reject) => {
      this.#ends.set(item, (error) => {
        this.#ends.delete(item);
        if (error === undefined) resolve(`answer ${item}`);
        else reject(error);
      });
      signal.addEventListener("abort", () => {
        this.aborted.push(item);
        reject(signal.reason);
      });
    });
  };

  end(item: number, error?: Error): void {
    this.#ends.get(item)?.(error);
  }
}

/** Numbers from 0 on, and how many of them were taken. */
function counter(limit = Number.POSITIVE_INFINITY) {
  const state = { taken: 0, closed: false };
  async function* numbers() {
    try {
      for (let number = 0; number < limit; number++) {
        state.taken++;
        yield number;
      }
    } finally {
      state.closed = true;
    }
  }
  return { state, source: numbers() };
}

const settle = async () => {
  for (let i = 0; i < 20; i++) await turn();
};

test("the order is the items', however the requests end; a failure is its own item's", async () => {
  const requests = new Requests();
  const results = mapInOrder([0, 1, 2, 3], requests.run, checkMap([], { concurrency: 4 }));
  const first = results.next();
  await settle();
  expect(requests.started).toEqual([0, 1, 2, 3]);
  requests.end(3);
  requests.end(1, new Error("no"));
  requests.end(2);
  requests.end(0);
  const all = [(await first).value];
  for await (const result of results) all.push(result);
  expect(all).toEqual([
    { index: 0, item: 0, ok: true, result: "answer 0" },
    { index: 1, item: 1, ok: false, error: new Error("no") },
    { index: 2, item: 2, ok: true, result: "answer 2" },
    { index: 3, item: 3, ok: true, result: "answer 3" },
  ]);
});

test("no more requests run than asked for, and no more is read than can be used", async () => {
  const requests = new Requests();
  const { state, source } = counter();
  const results = mapInOrder(source, requests.run, checkMap([], { concurrency: 3 }));
  const first = results.next();
  await settle();
  expect([requests.started, state.taken]).toEqual([[0, 1, 2], 3]);
  // The first one is slow: the others go on, until as many results wait as requests may run.
  for (let item = 1; item < 40; item++) {
    requests.end(item);
    await settle();
  }
  expect(requests.started.at(-1)).toBe(5);
  expect(state.taken).toBe(6);
  requests.end(0);
  expect((await first).value).toMatchObject({ index: 0 });
  await settle();
  expect(requests.started.at(-1)).toBe(6);
  expect(requests.most).toBeLessThanOrEqual(3);
  await results.return();
  await settle();
  expect(requests.aborted).toContain(6);
  expect(state.closed).toBe(true);
});

test("an abort ends the iteration and the requests, also while one waits for a source that gives nothing", async () => {
  const controller = new AbortController();
  const requests = new Requests();
  const results = mapInOrder([1, 2], requests.run, checkMap([], { signal: controller.signal }));
  const next = results.next();
  await settle();
  controller.abort();
  await expect(next).rejects.toThrow(RequestCancelledError);
  await settle();
  expect(requests.aborted).toEqual([1, 2]);

  async function* silent(): AsyncGenerator<number> {
    await new Promise(() => {});
    yield 1;
  }
  const other = new AbortController();
  const waiting = mapInOrder(silent(), requests.run, checkMap([], { signal: other.signal })).next();
  other.abort();
  await expect(waiting).rejects.toThrow(RequestCancelledError);
});

test("a source that throws ends the iteration after the results of the items before", async () => {
  function* broken() {
    yield 1;
    throw new Error("the file ended early");
  }
  const seen: unknown[] = [];
  const iterate = async () => {
    for await (const result of mapInOrder(broken(), async (item) => item * 2, checkMap([], {}))) seen.push(result);
  };
  await expect(iterate()).rejects.toThrow("the file ended early");
  expect(seen).toEqual([{ index: 0, item: 1, ok: true, result: 2 }]);
});

test("nothing is a map of nothing; bad options are refused by name", async () => {
  for await (const _ of mapInOrder([], async () => 1, checkMap([], {}))) throw new Error("there is no item");
  expect(() => checkMap(5, {})).toThrow(/iterable or async iterable of prompts, got number 5/);
  expect(() => checkMap([], { concurrency: 0 })).toThrow(InvalidArgumentError);
  expect(() => checkMap([], { concurency: 2 } as object)).toThrow(/did you mean 'concurrency'/);
  expect(() => checkMap([], {}, 5 as never)).toThrow(
    /options of the requests must be an object or a function, got number 5/,
  );
  // Otherwise each item would fail, with an unknown sampling parameter.
  expect(() => checkMap([], {}, { concurrency: 3 } as object)).toThrow(
    expect.objectContaining({
      message: "concurrency is an option of map, not of its requests: 3",
      hint: "pass it as the third argument: model.map(prompts, { max_tokens: 50 }, { concurrency: 3 })",
    }),
  );
});
