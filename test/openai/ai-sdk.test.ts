import {
  embedMany,
  generateObject,
  generateText,
  type LanguageModel,
  Output,
  stepCountIs,
  streamObject,
  streamText,
  tool,
} from "ai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import type { VllmModel } from "../../src";
import { createTritonode, type TritonodeProvider } from "../../src/ai-sdk";
import { loadTiny } from "../support/models";
import { adapter } from "../support/paths";
import { toolEngine } from "../support/versions";

// The provider, with the AI SDK itself.

let model: VllmModel;
let tritonode: TritonodeProvider;
beforeAll(async () => {
  model = await loadTiny(toolEngine, { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") });
  tritonode = createTritonode(model);
});
afterAll(() => model?.dispose());

const greedy = { temperature: 0, maxOutputTokens: 12 };
const prompt = "How is Rome?";

/** What the library itself answers. */
async function expected(lora: Parameters<typeof model.chat>[1] = {}): Promise<string> {
  return (await model.chat([{ role: "user", content: prompt }], { ...lora, temperature: 0, max_tokens: 12 })).text;
}

describe("text", () => {
  test("adapters are model ids; the base model is the model's own name, or none", async () => {
    const ask = async (id: LanguageModel) => (await generateText({ model: id, prompt, ...greedy })).text;
    expect(await ask(tritonode())).toBe(await expected());
    expect(await ask(tritonode(model.name))).toBe(await expected());
    expect(await ask(tritonode.languageModel("lora_a"))).toBe(await expected({ lora: "lora_a" }));
    const lora = { name: "lora_a", scale: 0.5 };
    expect(await ask(tritonode(lora))).toBe(await expected({ lora }));
  });

  test("usage, finish reason, system messages, and the fields of vLLM's own", async () => {
    const answer = await generateText({
      model: tritonode("lora_b"),
      system: "Be brief.",
      prompt,
      ...greedy,
      providerOptions: { tritonode: { min_tokens: 12, ignore_eos: true } },
    });
    expect(answer).toMatchObject({ finishReason: "length", usage: { outputTokens: 12 }, warnings: [] });
    expect(answer.usage.inputTokens).toBeGreaterThan(5);
    const same = await model.chat(
      [
        { role: "system", content: "Be brief." },
        { role: "user", content: prompt },
      ],
      { lora: "lora_b", temperature: 0, max_tokens: 12, min_tokens: 12, ignore_eos: true },
    );
    expect(answer.text).toBe(same.text);
  });

  test("streams the same text, and ends the request with the reader", async () => {
    const { textStream, usage, finishReason } = streamText({ model: tritonode("lora_a"), prompt, ...greedy });
    let text = "";
    let pieces = 0;
    for await (const piece of textStream) {
      text += piece;
      pieces++;
    }
    expect(text).toBe(await expected({ lora: "lora_a" }));
    expect(pieces).toBeGreaterThan(1);
    expect([(await usage).outputTokens, await finishReason]).toEqual([12, "length"]);
    const controller = new AbortController();
    const long = streamText({
      model: tritonode("lora_a"),
      prompt,
      maxOutputTokens: 400,
      abortSignal: controller.signal,
      providerOptions: { tritonode: { ignore_eos: true } },
    });
    const kinds: string[] = [];
    for await (const { type } of long.fullStream) {
      kinds.push(type);
      if (type === "text-delta") controller.abort();
    }
    expect(kinds.at(-1)).toBe("abort");
    await expect.poll(async () => (await model.info()).requests.running).toBe(0);
  });

  test("errors are tritonode's own, and an abort is the SDK's", async () => {
    const ask = generateText({ model: tritonode("lora_x"), prompt, ...greedy });
    await expect(ask).rejects.toMatchObject({ code: "ERR_ADAPTER_NOT_FOUND" });
    const errors: unknown[] = [];
    const { textStream } = streamText({
      model: tritonode("lora_x"),
      prompt,
      ...greedy,
      onError: ({ error }) => void errors.push(error),
    });
    for await (const _ of textStream);
    expect(errors).toMatchObject([{ code: "ERR_ADAPTER_NOT_FOUND" }]);
    const aborted = generateText({ model: tritonode(), prompt, abortSignal: AbortSignal.abort() });
    await expect(aborted).rejects.toMatchObject({ name: "AbortError" });
    expect(() => createTritonode({} as VllmModel)).toThrow(/takes a loaded model/);
    const file = { type: "file" as const, data: "AAAA", mediaType: "application/pdf" };
    const pdf = generateText({ model: tritonode(), messages: [{ role: "user", content: [file] }] });
    await expect(pdf).rejects.toThrow(/application\/pdf cannot be sent/);
  });
});

describe("structured output and tools", () => {
  const cities = ["Paris", "Berlin", "Rome"] as const;
  const schema = z.object({ city: z.enum(cities), days: z.number().int().min(1).max(9) });

  test("objects fit their schema, whole and streamed", async () => {
    const options = {
      model: tritonode("lora_a"),
      schema,
      prompt: "Three days in Rome",
      temperature: 0,
      maxOutputTokens: 60,
    };
    const { object } = await generateObject(options);
    expect(cities).toContain(object.city);
    const streamed = streamObject(options);
    for await (const _ of streamed.partialObjectStream);
    expect(await streamed.object).toEqual(object);
    const { output } = await generateText({
      model: tritonode("lora_a"),
      prompt: "Three days in Rome",
      temperature: 0,
      maxOutputTokens: 60,
      output: Output.object({ schema }),
    });
    expect(output).toEqual(object);
  });

  /** With other seeds until the model has written a call to its end: its weights are random. */
  async function firstGood<T>(attempt: (seed: number) => Promise<T>, isGood: (result: T) => boolean): Promise<T> {
    for (let seed = 1; ; seed++) {
      const result = await attempt(seed).catch((error) => error);
      if (seed === 12 || (!(result instanceof Error) && isGood(result))) return result;
    }
  }
  const weather = tool({
    description: "The weather in a city",
    inputSchema: z.object({ city: z.enum(cities) }),
    execute: ({ city }) => ({ city, sky: "blue" }),
  });
  const loop = (seed: number) => ({
    model: tritonode("lora_a"),
    prompt,
    seed,
    maxOutputTokens: 60,
    tools: { weather },
    stopWhen: stepCountIs(2),
    prepareStep: ({ stepNumber }: { stepNumber: number }) => ({
      toolChoice: stepNumber === 0 ? ({ type: "tool", toolName: "weather" } as const) : ("none" as const),
    }),
  });

  test("a tool loop: call, result, answer", async () => {
    const { steps, text } = await firstGood(
      (seed) => generateText(loop(seed)),
      (result) => result.steps.length === 2,
    );
    expect(steps[0]?.finishReason).toBe("tool-calls");
    expect(steps[0]?.toolResults[0]?.output).toMatchObject({ sky: "blue" });
    expect(cities.map((city) => ({ city }))).toContainEqual(steps[0]?.toolCalls[0]?.input);
    expect(text).toBe(steps[1]?.text);
  });

  test("a streamed tool loop", async () => {
    const run = async (seed: number) => {
      const kinds: string[] = [];
      const { fullStream, steps } = streamText({ ...loop(seed), onError: () => {} });
      for await (const { type } of fullStream) kinds.push(type);
      return { kinds, steps: await steps };
    };
    const { kinds, steps } = await firstGood(run, (result) => result.kinds.includes("tool-result"));
    const order = ["tool-input-start", "tool-input-delta", "tool-input-end", "tool-call", "tool-result", "finish"];
    const places = order.map((kind) => kinds.indexOf(kind));
    expect(places).toEqual([...places].sort((a, b) => a - b));
    expect(places[0]).toBeGreaterThan(0);
    expect(steps).toHaveLength(2);
  });
});

test("embeddings, with a model that embeds", async () => {
  const embedder = await loadTiny({ runner: "pooling", convert: "embed" }, undefined, "embedder");
  try {
    const provider = createTritonode(embedder);
    const values = ["one", "two"];
    const { embeddings, usage } = await embedMany({ model: provider.embeddingModel(), values });
    const own = await embedder.embed(values);
    expect(embeddings).toEqual(own.embeddings.map((each) => Array.from(each)));
    expect(usage.tokens).toBe(own.usage.totalTokens);
  } finally {
    await embedder.dispose();
  }
});
