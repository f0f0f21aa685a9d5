import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  AdapterNotFoundError,
  DeadlineExceededError,
  DisposedError,
  type GenerateOptions,
  InvalidArgumentError,
  RequestCancelledError,
  VllmModel,
} from "../../src";
import { loadTiny, tinyEngine } from "../support/models";

const greedy = { temperature: 0, max_tokens: 16, ignore_eos: true } satisfies GenerateOptions;
const names = [undefined, "lora_a", "lora_b", "lora_all"];

let model: VllmModel;
beforeAll(async () => {
  model = await loadTiny();
});
afterAll(() => model.dispose());

async function streamed(prompt: string, options: GenerateOptions): Promise<string> {
  let text = "";
  for await (const chunk of model.stream(prompt, options)) text += chunk.text;
  return text;
}

/** It still serves. */
async function expectServing(): Promise<void> {
  const { text } = await model.generate("Hello, my name is", { ...greedy, max_tokens: 4 });
  expect(text).not.toBe("");
}

describe("results", () => {
  test("generate: text, finish reason, usage, request id", async () => {
    const result = await model.generate("Hello, my name is", { ...greedy, requestId: "mine" });
    expect(result).toMatchObject({
      finishReason: "length",
      usage: { promptTokens: 5, completionTokens: 16, totalTokens: 21 },
      requestId: "mine",
    });
    expect(result.choices).toHaveLength(1);
    expect(result.choices[0]?.text).toBe(result.text);
    expect(result.logprobs).toBeUndefined();
  });

  test("stream: the same text in pieces, the usage on the last", async () => {
    const { text } = await model.generate("Hello, my name is", greedy);
    const chunks = [];
    for await (const chunk of model.stream("Hello, my name is", greedy)) chunks.push(chunk);
    expect(chunks.map((chunk) => chunk.text).join("")).toBe(text);
    expect(chunks.at(-1)).toMatchObject({ finishReason: "length", usage: { promptTokens: 5, completionTokens: 16 } });
    expect(chunks.slice(0, -1).every((chunk) => chunk.finishReason === null && chunk.usage === undefined)).toBe(true);
  });

  test("n choices, generated and streamed", async () => {
    const options = { ...greedy, n: 3, temperature: 1, seed: 3 };
    const { choices } = await model.generate("Hello, my name is", options);
    expect(choices.map((choice) => choice.index)).toEqual([0, 1, 2]);
    const texts = ["", "", ""];
    for await (const chunk of model.stream("Hello, my name is", options)) texts[chunk.index] += chunk.text;
    expect(texts).toEqual(choices.map((choice) => choice.text));
  });

  test("logprobs", async () => {
    const { logprobs, cumulativeLogprob, text } = await model.generate("Hello", {
      ...greedy,
      max_tokens: 4,
      logprobs: 2,
    });
    expect(logprobs).toHaveLength(4);
    const chosen = (logprobs ?? []).map((position) => position.find((entry) => entry.rank === 1));
    expect(chosen.map((entry) => entry?.token).join("")).toBe(text);
    expect(cumulativeLogprob).toBeCloseTo(
      chosen.reduce((sum, entry) => sum + (entry?.logprob ?? 0), 0),
      4,
    );
  });
});

describe("many at once", () => {
  test("256 streams over base and adapters: each exactly its own text", async () => {
    const prompts = Array.from({ length: 16 }, (_, at) => `Prompt number ${at} says`);
    const alone = new Map<string, string>();
    for (const lora of names) {
      for (const prompt of prompts)
        alone.set(`${lora} ${prompt}`, (await model.generate(prompt, { ...greedy, lora })).text);
    }
    const rows = Array.from({ length: 256 }, (_, at) => ({
      prompt: prompts[at % 16] as string,
      lora: names[Math.floor(at / 16) % names.length],
    }));
    const texts = await Promise.all(rows.map(({ prompt, lora }) => streamed(prompt, { ...greedy, lora })));
    for (const [at, { prompt, lora }] of rows.entries()) {
      expect(texts[at], `${lora}: ${prompt}`).toBe(alone.get(`${lora} ${prompt}`));
    }
  }, 180_000);

  test("1,000 requests submitted at once are all served", async () => {
    const results = await Promise.all(
      Array.from({ length: 1000 }, (_, at) =>
        model.generate(`Number ${at}`, {
          temperature: 0,
          max_tokens: 2,
          ignore_eos: true,
          lora: names[at % names.length],
        }),
      ),
    );
    expect(results.every(({ usage }) => usage.completionTokens === 2)).toBe(true);
    expect((await model.info()).requests).toEqual({ running: 0, waiting: 0 });
  }, 180_000);
});

describe("leaving early", () => {
  const long = { temperature: 0, max_tokens: null, ignore_eos: true };
  const idle = () =>
    expect.poll(async () => (await model.info()).requests, { timeout: 3000 }).toEqual({ running: 0, waiting: 0 });

  test("breaking out of the loop frees the place in vLLM within a step or two", async () => {
    for await (const chunk of model.stream("Hello", long)) {
      expect(chunk.text).not.toBe("");
      expect((await model.info()).requests.running).toBe(1);
      break;
    }
    await idle();
  });

  test("an AbortSignal, before and while it runs", async () => {
    await expect(model.generate("Hello", { ...long, signal: AbortSignal.abort() })).rejects.toThrow(
      RequestCancelledError,
    );
    const controller = new AbortController();
    const answer = model.generate("Hello", { ...long, signal: controller.signal });
    await expect.poll(async () => (await model.info()).requests.running).toBe(1);
    controller.abort(new Error("enough"));
    await expect(answer).rejects.toMatchObject({ code: "ERR_REQUEST_CANCELLED", cause: { message: "enough" } });
    await idle();
  });

  test("a deadline", async () => {
    const began = performance.now();
    await expect(model.generate("Hello", { ...long, deadline: 50 })).rejects.toThrow(DeadlineExceededError);
    expect(performance.now() - began).toBeLessThan(2000);
    await idle();
  });

  test("cancel() while a read waits", async () => {
    const stream = model.stream("Hello", long);
    await stream.next();
    stream.cancel();
    await expect(
      (async () => {
        for await (const _ of stream) void _;
      })(),
    ).rejects.toThrow(RequestCancelledError);
    await idle();
  });
});

describe("bad requests: each a typed error, and the model goes on", () => {
  test("an unknown adapter names the nearest", async () => {
    const failure = await model.generate("Hello", { lora: "lora_bb" }).catch((error) => error);
    expect(failure).toBeInstanceOf(AdapterNotFoundError);
    expect(failure).toMatchObject({ code: "ERR_ADAPTER_NOT_FOUND", adapter: "lora_bb" });
    expect(failure.message).toContain("did you mean 'lora_b'?");
    expect(failure.available).toEqual(["lora_a", "lora_b", "lora_all"]);
    expect(failure.cause.message).toBe(
      "LoRA lora_bb is not supported, we currently support ['lora_a', 'lora_b', 'lora_all']",
    );
    await expectServing();
  });

  test.each([
    ["an unknown sampling parameter", "Hello", { temprature: 1 }, "unknown sampling parameter 'temprature'"],
    ["a sampling parameter out of range", "Hello", { top_p: 3 }, "top_p"],
    ["an empty prompt", "", {}, "the prompt is empty"],
    [
      "a prompt of another type",
      42 as unknown as string,
      {},
      "the prompt must be a string or a list of token ids, got number 42",
    ],
    ["invalid UTF-16", "a\ud800b", {}, "lone surrogate at character 1"],
    ["a prompt over the context length", "word ".repeat(600), {}, "more than the model's context of 512"],
    ["a 10 MB prompt", "word ".repeat(2 << 20), {}, "more than the model's context of 512"],
    ["a number that JSON cannot carry", "Hello", { temperature: Number.NaN }, "'temperature' is NaN"],
    ["a lora that is no name", "Hello", { lora: "" }, "lora must be an adapter's name"],
    ["a bad deadline", "Hello", { deadline: -1 }, "deadline must be"],
  ])("%s", async (_, prompt, options, message) => {
    const failure = await (async () => model.generate(prompt, options as GenerateOptions))().catch((error) => error);
    expect(failure).toBeInstanceOf(InvalidArgumentError);
    expect(failure.message).toContain(message);
    await expectServing();
  });
});

test("dispose: later calls are refused, a second call is the same promise", async () => {
  await using other = await VllmModel.load({ engine: tinyEngine, model: "other", timeout: Number.POSITIVE_INFINITY });
  expect(await other.isReady()).toBe(true);
  const running = other
    .generate("Hello", { temperature: 0, max_tokens: null, ignore_eos: true })
    .catch((error) => error);
  const first = other.dispose();
  expect(other.dispose()).toBe(first);
  expect(await running).toBeInstanceOf(RequestCancelledError);
  await first;
  expect(await other.isReady()).toBe(false);
  await expect((async () => other.generate("Hello"))()).rejects.toThrow(DisposedError);
  // The first model is not touched.
  await expectServing();
});

test("load refuses bad options before anything starts", async () => {
  const load = VllmModel.load as (options: unknown) => Promise<unknown>;
  for (const [options, message] of [
    [undefined, "takes an object"],
    [{}, "pass either modelRepository or engine"],
    [{ modelRepository: "/nowhere" }, "/nowhere does not exist"],
    [{ modelRepository: "x", engine: { model: "y" } }, "pass either"],
    [{ modelRepositry: "x" }, "no option 'modelRepositry'"],
    [{ engine: {} }, "engine.model must be the folder"],
  ] as const) {
    await expect(load(options)).rejects.toMatchObject({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringContaining(message),
    });
  }
  await expect(load({ engine: { model: "x" }, runtime: "/nowhere" })).rejects.toMatchObject({
    code: "ERR_RUNTIME_MISSING",
    hint: expect.stringContaining("npx tritonode setup"),
  });
});
