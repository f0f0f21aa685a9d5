import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import {
  AdapterNotFoundError,
  InvalidArgumentError,
  RequestCancelledError,
  ToolError,
  type VllmModel,
} from "../../src";
import { loadTiny } from "../support/models";
import { adapter } from "../support/paths";
import { toolEngine } from "../support/versions";

// Tools, scaled adapters, prompts of token ids and maps, on one engine.

const folder = mkdtempSync(join(tmpdir(), "tritonode scaled-"));
let model: VllmModel;
beforeAll(async () => {
  model = await loadTiny(
    { ...toolEngine, max_cpu_loras: 24 },
    { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") },
  );
});
afterAll(async () => {
  await model?.dispose();
  rmSync(folder, { recursive: true, force: true });
});

const greedy = { temperature: 0, max_tokens: 16 } as const;
const messages = [{ role: "user", content: "How is Rome?" }];

describe("runTools", () => {
  const cities = ["Paris", "Berlin", "Rome"] as const;
  const forced = { type: "function", function: { name: "weather" } };
  /** The same run with other seeds, until the model has written a call to its end: its weights are random. */
  async function firstCall(options: (seed: number) => Parameters<typeof model.runTools>[0]) {
    for (let seed = 1; ; seed++) {
      const run = await model.runTools(options(seed)).catch((error) => error);
      const calls = run instanceof Error ? [] : run.steps[0].toolCalls;
      if (seed === 12 || run instanceof ToolError || calls.length > 0) return run;
    }
  }
  const base = (seed: number) => ({ messages, tool_choice: forced, seed, max_tokens: 60, maxSteps: 2 });

  test("calls the tool with checked arguments, gives the model its result, and answers", async () => {
    const told: string[] = [];
    const run = await firstCall((seed) => ({
      ...base(seed),
      lora: "lora_a",
      tools: {
        weather: {
          description: "The weather in a city",
          parameters: z.object({ city: z.enum(cities) }),
          execute: ({ city }: { city: string }) => ({ city, sky: "blue" }),
        },
      },
      onToolCall: ({ name }) => told.push(`call ${name}`),
      onToolResult: ({ content }) => told.push(content),
    }));
    expect(run.steps).toHaveLength(2);
    const [step] = run.steps;
    const result = JSON.parse(step.results[0].content);
    expect(cities).toContain(result.city);
    expect(result.sky).toBe("blue");
    expect(told.slice(-2)).toEqual(["call weather", step.results[0].content]);
    expect(run.messages.map(({ role }: { role: string }) => role)).toEqual(["user", "assistant", "tool", "assistant"]);
    expect(run.messages[2]).toMatchObject({ tool_call_id: step.toolCalls[0].id, content: step.results[0].content });
    expect(run.text).toBe(run.steps[1].text);
    expect(run.usage.totalTokens).toBe(run.steps[0].usage.totalTokens + run.steps[1].usage.totalTokens);
  });

  test("streams, and does not make the calls of the last step", async () => {
    let text = "";
    const run = await firstCall((seed) => {
      text = "";
      return {
        ...base(seed),
        maxSteps: 1,
        tools: { weather: { parameters: { type: "object", properties: { city: { enum: cities } } }, execute: fail } },
        onText: (piece) => {
          text += piece;
        },
      };
    });
    expect(run.pendingCalls).toHaveLength(1);
    expect(run.pendingCalls[0].name).toBe("weather");
    expect(run.steps[0].results).toEqual([]);
    expect(text).toBe(run.text);
  });

  test("a tool that throws: its message for the model, or an error for the caller", async () => {
    const tools = { weather: { parameters: { type: "object", properties: {} }, execute: fail } };
    const returned = await firstCall((seed) => ({ ...base(seed), tools }));
    expect(returned.steps[0].results[0]).toMatchObject({
      content: '{"error":"no sky today"}',
      error: expect.any(Error),
    });
    const thrown = await firstCall((seed) => ({ ...base(seed), tools, toolErrors: "throw" as const }));
    expect(thrown).toBeInstanceOf(ToolError);
    expect(thrown).toMatchObject({ code: "ERR_TOOL", call: { name: "weather" }, cause: { message: "no sky today" } });
  });

  test("an abort while a tool works ends the run", async () => {
    const controller = new AbortController();
    const execute = () => {
      controller.abort();
      return "late";
    };
    const failure = await firstCall((seed) => ({
      ...base(seed),
      signal: controller.signal,
      tools: { weather: { parameters: { type: "object", properties: {} }, execute } },
    }));
    expect(failure).toBeInstanceOf(RequestCancelledError);
  });

  test("bad options are refused by name", async () => {
    const tool = { parameters: { type: "object" }, execute: fail };
    const run = (options: object) => model.runTools({ messages, tools: { tool }, ...options });
    await expect(run({ tools: {} })).rejects.toThrow(/tools must be an object of tools/);
    await expect(run({ tools: { tool: { ...tool, descripton: "x" } } })).rejects.toThrow(/did you mean 'description'/);
    await expect(run({ maxSteps: 0 })).rejects.toThrow(/maxSteps/);
    await expect(run({ max_token: 5 })).rejects.toThrow(
      /chat knows no option 'max_token' \(did you mean 'max_tokens'\?\)/,
    );
  });
});

function fail(): never {
  throw new Error("no sky today");
}

describe("adapters with a scale", () => {
  /** The adapter with its configuration's `lora_alpha` multiplied, as PEFT would have it. */
  function byHand(name: string, factor: number): string {
    const path = join(folder, `${name} ${factor}`);
    cpSync(adapter(name), path, { recursive: true });
    const file = join(path, "adapter_config.json");
    const config = JSON.parse(readFileSync(file, "utf8"));
    writeFileSync(file, JSON.stringify({ ...config, lora_alpha: config.lora_alpha * factor }));
    return path;
  }

  test("generate, stream and chat answer as with an adapter of that alpha", async () => {
    await model.adapters.load("half", byHand("lora_a", 0.5));
    const ask = (lora: Parameters<typeof model.generate>[1]) => model.generate("Hello", { ...greedy, ...lora });
    const [half, whole, plain] = await Promise.all([ask({ lora: "half" }), ask({ lora: "lora_a" }), ask({})]);
    expect(new Set([half.text, whole.text, plain.text]).size).toBe(3);
    const lora = { name: "lora_a", scale: 0.5 };
    expect((await ask({ lora })).text).toBe(half.text);
    expect((await model.stream("Hello", { ...greedy, lora }).final()).text).toBe(half.text);
    expect((await ask({ lora: { name: "lora_a", scale: 1 } })).text).toBe(whole.text);
    const chat = async (choice: string | typeof lora) => (await model.chat(messages, { ...greedy, lora: choice })).text;
    expect(await chat(lora)).toBe(await chat("half"));
    expect(await model.adapters.get("lora_a*0.5")).toMatchObject({ scale: 0.5, path: adapter("lora_a") });
    expect(await model.adapters.get("lora_a")).toMatchObject({ scale: 1 });
  });

  test("with its path an adapter need not be loaded; a variant goes with its original", async () => {
    const lora = { name: "fresh", path: adapter("lora_c"), scale: 2 };
    const { text } = await model.generate("Hello", { ...greedy, lora });
    await model.adapters.load("double", adapter("lora_c"), { scale: 2 });
    expect((await model.generate("Hello", { ...greedy, lora: "double" })).text).toBe(text);
    expect((await model.chat(messages, { ...greedy, lora: { name: "fresh", path: adapter("lora_c") } })).text).not.toBe(
      "",
    );
    await model.adapters.unload("fresh");
    const names = (await model.adapters.list()).map(({ name }) => name);
    expect(names).toContain("double");
    expect(names.filter((name) => name.startsWith("fresh"))).toEqual([]);
    const other = { ...lora, name: "lora_a", path: adapter("lora_b") };
    await expect(model.generate("Hello", { ...greedy, lora: other })).rejects.toThrow(/is loaded from .*lora_a/);
  });

  test("many scales: the ones used longest ago are unloaded", async () => {
    for (let scale = 2; scale < 22; scale++) {
      await model.generate("Hello", { temperature: 0, max_tokens: 1, lora: { name: "lora_b", scale } });
    }
    const variants = (await model.adapters.list()).filter(({ name }) => name.startsWith("lora_b*"));
    expect(variants.map(({ scale }) => scale).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 16 }, (_, i) => i + 6),
    );
  });

  test("what is no scale or no adapter is refused by name", async () => {
    const ask = (lora: object) => model.generate("Hello", { ...greedy, lora: lora as never });
    for (const scale of [0, Number.NaN, Number.POSITIVE_INFINITY, "1"]) {
      expect(() => model.stream("x", { lora: { name: "lora_a", scale: scale as number } })).toThrow(/scale must be/);
    }
    await expect(ask({ name: "lora_a", scal: 1 })).rejects.toThrow(/did you mean 'scale'/);
    await expect(ask({ name: "lora_x", scale: 2 })).rejects.toThrow(AdapterNotFoundError);
    await expect(model.chat(messages, { lora: { name: "lora_x", scale: 2 } })).rejects.toThrow(AdapterNotFoundError);
    await expect(model.adapters.load("a*b", adapter("lora_a"))).rejects.toThrow(/must not hold '\*'/);
  });
});

test("a prompt of token ids answers as its text", async () => {
  const { tokens } = await model.tokenize("The capital of France");
  const { text, usage } = await model.generate("The capital of France", greedy);
  expect(await model.generate([...tokens], greedy)).toMatchObject({ text, usage });
  expect((await model.stream({ promptTokenIds: tokens }, greedy).final()).text).toBe(text);
  await expect(model.generate([0, 10_000_000], greedy)).rejects.toThrow(InvalidArgumentError);
  for (const prompt of [[], [1.5], [-1], ["1"], { promptTokenIds: [] }]) {
    await expect((async () => model.generate(prompt as number[]))()).rejects.toThrow(/token id/);
  }
});

test("map answers prompts and conversations in their order", async () => {
  const prompts = Array.from({ length: 20 }, (_, i) => `Number ${i}:`);
  const texts = await Promise.all(prompts.map(async (prompt) => (await model.generate(prompt, greedy)).text));
  async function* lines() {
    for (const [at, prompt] of prompts.entries()) yield at === 7 ? "" : prompt;
  }
  const results = [];
  for await (const result of model.map(lines(), greedy, { concurrency: 6 })) results.push(result);
  expect(results.map((each) => (each.ok ? each.result.text : each.error))).toEqual(
    texts.map((text, at) => (at === 7 ? expect.any(InvalidArgumentError) : text)),
  );
  const chats = model.map([messages, messages], (_, index) => ({
    ...greedy,
    lora: index === 0 ? undefined : "lora_a",
  }));
  const answers = [];
  for await (const each of chats) answers.push(each.ok && each.result.text);
  expect(answers[1]).toBe((await model.chat(messages, { ...greedy, lora: "lora_a" })).text);
  expect(answers[0]).not.toBe(answers[1]);
});
