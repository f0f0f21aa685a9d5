import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { InferenceResponse } from "../../src";
import { GenerationStream } from "../../src/model/generation";
import { type RestartEvent, Restarter, toRestartOptions } from "../../src/model/restart";
import { readTextEntry } from "../../src/model/results";
import { Responses, StreamState } from "../../src/server/stream";
import { DeltaChannel } from "../../src/transport/deltas";

// The parts of the model layer that need no engine: what Triton would send is handed to them here.

const uncaught: unknown[] = [];
const keep = (error: unknown) => void uncaught.push(error);
beforeEach(() => {
  uncaught.length = 0;
  process.on("uncaughtException", keep);
});
afterEach(() => {
  process.off("uncaughtException", keep);
});
/** Everything that was put off to the next turns of the event loop has run. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 20));

const options = { id: "1", model: "m", maxQueuedResponses: 100 };

function response(texts: string[], final = false): InferenceResponse {
  const column = (name: string, datatype: "BYTES" | "UINT32", data: string[] | number[]) => ({
    [name]: { name, datatype, shape: [data.length], data },
  });
  return {
    model: "m",
    version: 1,
    id: "1",
    parameters: {},
    final,
    outputs: {
      ...column("text_output", "BYTES", texts),
      ...column(
        "finish_reason",
        "BYTES",
        texts.map(() => (final ? "length" : "None")),
      ),
      ...column(
        "num_output_tokens",
        "UINT32",
        texts.map(() => 1),
      ),
    },
  };
}

describe("the channel of pieces", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "tritonode test-"));
  });
  afterEach(() => rmSync(directory, { recursive: true, force: true }));

  /** A channel whose requests are answered as a backend would that has made no FIFO. */
  function channelWithoutFifo() {
    const sent: StreamState[] = [];
    const channel = new DeltaChannel("m", directory, (_, onAnswer) => {
      const state = new StreamState({ ...options, onResponse: onAnswer });
      state.begin(() => {});
      sent.push(state);
      setImmediate(() => state.onResponse(response([""]), false));
      return new Responses(state, false);
    });
    return { channel, sent };
  }

  test("a FIFO that can't be opened is no uncaught exception: requests are answered one by one", async () => {
    const { channel, sent } = channelWithoutFifo();
    await channel.open();
    expect(channel.name).toBeUndefined();
    await settled();
    expect(uncaught).toEqual([]);
    // Its request is ended: nobody reads what it would bring.
    await expect(sent[0]?.finished).rejects.toMatchObject({ code: "ERR_REQUEST_CANCELLED" });
    // The next requests do not try again, each for itself.
    for (let i = 0; i < 5; i++) expect(channel.name).toBeUndefined();
    await settled();
    expect(sent).toHaveLength(1);
    expect(uncaught).toEqual([]);
  });

  test("a request that ends leaves no stream waiting", async () => {
    const { execFileSync } = await import("node:child_process");
    let background: StreamState | undefined;
    const channel = new DeltaChannel("m", directory, (name, onAnswer) => {
      const state = new StreamState({ ...options, onResponse: onAnswer });
      state.begin(() => {});
      background = state;
      execFileSync("mkfifo", [join(directory, name)]);
      setImmediate(() => state.onResponse(response([""]), false));
      return new Responses(state, false);
    });
    await channel.open();
    const name = channel.name ?? "";
    expect(existsSync(join(directory, name))).toBe(false);
    const state = new StreamState({ ...options, delivered: true });
    state.begin(() => {});
    channel.add("token", state, readTextEntry);
    const waiting = new Responses(state, false).next();
    background?.onFailure("INTERNAL", "the backend's loop has ended", true);
    await expect(waiting).rejects.toMatchObject({ code: "ERR_TRITON_INTERNAL" });
    expect(uncaught).toEqual([]);
  });
});

describe("a stream of pieces", () => {
  function start() {
    const state = new StreamState(options);
    let cancelled = 0;
    state.begin(() => cancelled++);
    return { state, stream: new GenerationStream(new Responses(state, false)), cancelled: () => cancelled };
  }

  test("reads that wait at once each get the next piece, whatever a response brings", async () => {
    const { state, stream } = start();
    const reads = Array.from({ length: 5 }, () => stream.next());
    state.onResponse(response(["a0", "b0"]), false);
    state.onResponse(response(["a1", "b1"], true), true);
    const pieces = (await Promise.all(reads)).map(({ value, done }) => (done ? "done" : value.text));
    expect(pieces).toEqual(["a0", "b0", "a1", "b1", "done"]);
  });

  test("a response that brings more than is read loses nothing, nor does one that final() reads ahead", async () => {
    const { state, stream } = start();
    const first = stream.next();
    state.onResponse(response(["a0", "b0", "c0"]), false);
    const texts = [(await first).value?.text];
    const final = stream.final();
    for (const step of [1, 2]) {
      await settled();
      state.onResponse(response([`a${step}`, `b${step}`, `c${step}`], step === 2), step === 2);
    }
    await final;
    for await (const { text } of stream) texts.push(text);
    expect(texts).toEqual(["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]);
  });

  test("return() acts at once, though a read waits", async () => {
    const { stream, cancelled } = start();
    const waiting = stream.next();
    expect(await stream.return()).toEqual({ done: true, value: undefined });
    expect(cancelled()).toBe(1);
    expect(await waiting).toEqual({ done: true, value: undefined });
    await expect(stream.final()).rejects.toMatchObject({ code: "ERR_REQUEST_CANCELLED" });
  });

  test("await using ends it", async () => {
    const { stream, cancelled } = start();
    {
      await using same = stream;
      void same;
    }
    expect(cancelled()).toBe(1);
  });

  test("final() gives the whole answer, whether or not the pieces are read", async () => {
    for (const read of [false, true]) {
      const { state, stream } = start();
      const final = stream.final();
      const texts: string[] = [];
      const reading = (async () => {
        for await (const piece of stream) texts.push(piece.text);
      })();
      if (read) await settled();
      state.onResponse(response(["a0", "b0"]), false);
      state.onResponse(response(["a1", "b1"], true), true);
      expect(await final).toMatchObject({
        text: "a0a1",
        finishReason: "length",
        requestId: "1",
        usage: { completionTokens: 4 },
        choices: [
          { index: 0, text: "a0a1", completionTokens: 2 },
          { index: 1, text: "b0b1", completionTokens: 2 },
        ],
      });
      await reading;
      expect(texts).toEqual(["a0", "b0", "a1", "b1"]);
    }
  });

  test("toReadableStream() gives the pieces, and its cancel() ends the request", async () => {
    const { state, stream } = start();
    state.onResponse(response(["a0"], true), true);
    const texts: string[] = [];
    for await (const piece of stream.toReadableStream()) texts.push(piece.text);
    expect(texts).toEqual(["a0"]);
    const other = start();
    await other.stream.toReadableStream().cancel();
    expect(other.cancelled()).toBe(1);
  });

  test("an error is thrown once, and final() has it too", async () => {
    const { state, stream } = start();
    const reads = [stream.next(), stream.next()];
    state.onFailure("INTERNAL", "no", true);
    expect(await Promise.allSettled(reads)).toMatchObject([{ status: "rejected" }, { value: { done: true } }]);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    await expect(stream.final()).rejects.toThrow("no");
  });
});

describe("pauses before restarts", () => {
  /** The pauses before the first two attempts, of which the first one fails. */
  async function pauses(options: unknown): Promise<(number | undefined)[]> {
    const events: RestartEvent[] = [];
    let hasFailed: () => void = () => {};
    const failed = new Promise<void>((resolve) => {
      hasFailed = resolve;
    });
    const restarter = new Restarter(
      toRestartOptions(options),
      () => Promise.reject(new Error("on purpose")),
      (event) => {
        events.push(event);
        if (event.phase === "failed") hasFailed();
      },
    );
    restarter.died(new Error("on purpose"));
    await failed;
    await restarter.stop();
    return events.filter(({ delay }) => delay !== undefined).map(({ delay }) => delay);
  }

  test("without `delay` the first one begins at once", async () => {
    expect(await pauses("on-failure")).toEqual([0, 500]);
  });

  test("`delay` is doubled, up to `maxDelay`", async () => {
    expect(await pauses({ policy: "on-failure", delay: 8, maxDelay: 12 })).toEqual([8, 12]);
  });
});
