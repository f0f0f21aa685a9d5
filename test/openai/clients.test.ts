import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { VllmModel } from "../../src";
import { loadTiny } from "../support/models";
import { adapter, root } from "../support/paths";
import { toolEngine } from "../support/versions";

// The examples are plain JavaScript, as their readers write it.
// biome-ignore lint/suspicious/noExplicitAny: JavaScript without types
type Example = any;
const example = (file: string): Promise<Example> => import(join(root, "examples", file));
let openaiExample: Example;
let aiSdk: Example;
let langchain: Example;

// The examples, each with its real client package, all on one engine.
let model: VllmModel;
beforeAll(async () => {
  openaiExample = await example("openai/main.mjs");
  aiSdk = await example("ai-sdk/main.mjs");
  langchain = await example("langchain/main.mjs");
  // The tools' arguments are held to their schema: this model has never heard of one.
  model = await loadTiny(toolEngine, { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") });
});
afterAll(() => model?.dispose());

/** What the adapter answers through the library itself. */
async function expected(lora: string | undefined, question: string, max_tokens: number): Promise<string> {
  return (await model.chat([{ role: "user", content: question }], { lora, temperature: 0, max_tokens })).text;
}

/**
 * The first result that `isGood` takes, over a few seeds: a model with random weights may put white space between two
 * tokens of JSON until it has none left.
 */
async function firstGood<T>(attempt: (seed: number) => Promise<T>, isGood: (result: T) => boolean): Promise<T> {
  for (let seed = 1; ; seed++) {
    try {
      const result = await attempt(seed);
      if (seed === 12 || isGood(result)) return result;
    } catch (error) {
      // A client may throw for what is no call.
      if (seed === 12) throw error;
    }
  }
}

const cities = ["Paris", "Berlin", "Rome"];
const sunny = (city: string) => `It is sunny in ${city}.`;

describe("openai", () => {
  const greedy = { temperature: 0, max_tokens: 12 };
  let openai: OpenAI;
  beforeAll(() => {
    openai = openaiExample.connect(model);
  });

  test("lists the models, chats, streams", async () => {
    expect(await openaiExample.listModels(openai)).toEqual(expect.arrayContaining(["vllm_model", "lora_a", "lora_b"]));
    for (const name of ["vllm_model", "lora_a"]) {
      const text = await expected(name === "vllm_model" ? undefined : name, "Hello", 12);
      expect(await openaiExample.chat(openai, name, "Hello", greedy)).toBe(text);
      let streamed = "";
      await openaiExample.stream(openai, name, "Hello", (piece: string) => (streamed += piece), greedy);
      expect(streamed).toBe(text);
    }
  });

  test("calls a tool and answers with its result", async () => {
    const execute = (name: string, { city }: { city: string }) => `${name}: ${sunny(city)}`;
    const { calls, answer } = await firstGood<Example>(
      (seed) => openaiExample.useTool(openai, "lora_a", "How is Rome?", execute, { seed, max_tokens: 60 }),
      (result) => result.calls.length > 0,
    );
    expect(calls).toHaveLength(1);
    expect(calls[0].function.name).toBe("weather");
    expect(cities).toContain(JSON.parse(calls[0].function.arguments).city);
    expect(answer).not.toBe("");
  });

  test("streams a tool's arguments", async () => {
    const parameters = { type: "object", properties: { city: { enum: cities } }, required: ["city"] };
    const attempt = (seed: number) =>
      openai.chat.completions
        .stream({
          model: "vllm_model",
          messages: [{ role: "user", content: "Weather?" }],
          tools: [{ type: "function", function: { name: "weather", parameters } }],
          tool_choice: { type: "function", function: { name: "weather" } },
          max_tokens: 60,
          seed,
        })
        .finalChatCompletion();
    const { choices } = await firstGood(attempt, (result) => result.choices[0]?.finish_reason !== "length");
    const [call] = choices[0]?.message.tool_calls ?? [];
    if (call?.type !== "function") throw new Error(`no call in ${JSON.stringify(choices)}`);
    expect(cities).toContain(JSON.parse(call.function.arguments).city);
  });

  test("structured output is parsed by its zod schema", async () => {
    const options = { temperature: 0, max_tokens: 60 };
    const parsed = await openaiExample.review(openai, "lora_b", "Lovely place, slow service.", options);
    expect(openaiExample.Review.parse(parsed)).toEqual(parsed);
  });

  test("logprobs, n, seed, usage, completions, responses", async () => {
    const messages = [{ role: "user" as const, content: "Hi" }];
    const two = await openai.chat.completions.create({ model: "lora_a", messages, n: 2, seed: 7, max_tokens: 4 });
    const again = await openai.chat.completions.create({ model: "lora_a", messages, n: 2, seed: 7, max_tokens: 4 });
    expect(two.choices.map((choice) => choice.message.content)).toEqual(
      again.choices.map((choice) => choice.message.content),
    );
    expect(two.usage).toMatchObject({ completion_tokens: 8 });
    const completion = await openai.completions.create({ model: "lora_a", prompt: "Once", max_tokens: 4, echo: true });
    expect(completion.choices[0]?.text.startsWith("Once")).toBe(true);
    const response = await openai.responses.create({
      model: "lora_a",
      input: "Hi",
      max_output_tokens: 6,
      temperature: 0,
    });
    expect(response.output_text).toBe(await expected("lora_a", "Hi", 6));
  });

  test("errors are the client's own classes; an abort is one too", async () => {
    const messages = [{ role: "user" as const, content: "Hi" }];
    await expect(openai.chat.completions.create({ model: "nobody", messages })).rejects.toThrow(OpenAI.NotFoundError);
    await expect(openai.chat.completions.create({ model: "lora_a", messages, temperature: -1 })).rejects.toThrow(
      OpenAI.BadRequestError,
    );
    const signal = AbortSignal.timeout(50);
    await expect(
      openai.chat.completions.create({ model: "lora_a", messages, max_tokens: 450 }, { signal }),
    ).rejects.toThrow(OpenAI.APIUserAbortError);
    const stream = await openai.chat.completions.create({ model: "lora_a", messages, max_tokens: 450, stream: true });
    for await (const _ of stream) break;
    const end = Date.now() + 20_000;
    while ((await model.info()).requests.running > 0) expect(Date.now()).toBeLessThan(end);
  });
});

describe("ai sdk", () => {
  const greedy = { temperature: 0, maxOutputTokens: 12 };

  test("generates and streams, adapters as model ids", async () => {
    const provider = aiSdk.createProvider(model);
    const text = await expected("lora_b", "Hello", 12);
    const answer = await aiSdk.ask(provider, "lora_b", "Hello", greedy);
    expect(answer).toMatchObject({ text, usage: { outputTokens: 12 } });
    let streamed = "";
    const usage = await aiSdk.stream(provider, "lora_b", "Hello", (piece: string) => (streamed += piece), greedy);
    expect({ streamed, tokens: usage.outputTokens }).toEqual({ streamed: text, tokens: 12 });
  });

  test("generates an object and loops over a tool", async () => {
    const provider = aiSdk.createProvider(model);
    const options = { temperature: 0, maxOutputTokens: 60 };
    const trip = await aiSdk.extract(provider, "lora_a", "Three days in Rome", options);
    expect(cities).toContain(trip.city);
    expect(trip.days).toBeGreaterThan(0);
    const execute = ({ city }: { city: string }) => sunny(city);
    const { calls, results, text } = await firstGood<Example>(
      (seed) => aiSdk.useTool(provider, "lora_a", "How is Rome?", execute, { seed, maxOutputTokens: 60 }),
      (result) => result.results.length > 0,
    );
    expect(calls).toHaveLength(1);
    expect(results[0].output).toBe(sunny(calls[0].input.city));
    expect(text).not.toBe("");
  });
});

describe("langchain", () => {
  test("invokes, streams through a chain, calls a tool, extracts", async () => {
    const llm = langchain.chatModel(model, "lora_a", { temperature: 0, maxTokens: 12 });
    expect((await llm.invoke("Hello")).content).toBe(await expected("lora_a", "Hello", 12));
    const pieces: string[] = [];
    const whole = await langchain.translate(llm, "Good morning!", (piece: string) => pieces.push(piece));
    expect(pieces.length).toBeGreaterThan(2);
    expect(whole).toBe(pieces.join(""));
    const longer = langchain.chatModel(model, "lora_a", { temperature: 0, maxTokens: 60 });
    const execute = ({ city }: { city: string }) => sunny(city);
    const [result] = await firstGood<Example[]>(
      (seed) =>
        langchain.callTool(
          langchain.chatModel(model, "lora_a", { maxTokens: 60, modelKwargs: { seed } }),
          "How is Rome?",
          execute,
        ),
      (results) => results.length > 0,
    );
    expect(cities.map(sunny)).toContain(result?.content);
    expect(langchain.Trip.safeParse(await langchain.extract(longer, "Three days in Rome")).success).toBe(true);
  });
});
