import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { VllmModel } from "../../src";
import { loadTiny } from "../support/models";
import { adapter, fixtures, paths } from "../support/paths";
import { type Reference, reference } from "../support/reference";

// Greedy text of the base and of each adapter, equal to Hugging Face transformers + PEFT on the same weights, in float32
// (bfloat16 is not batch-invariant). A margin near 1e-5 would mean that rounding decides.

/** The ids of the tokens that were chosen, from the logprobs of a greedy answer. */
async function tokens(model: VllmModel, prompt: string, lora: string | undefined, max_tokens: number) {
  const { text, finishReason, logprobs } = await model.generate(prompt, {
    lora,
    temperature: 0,
    max_tokens,
    logprobs: 0,
  });
  return { text, finishReason, tokenIds: (logprobs ?? []).map((position) => position[0]?.tokenId) };
}

describe("tiny model", () => {
  const names = ["lora_a", "lora_b", "lora_all", "lora_mlp"];
  const prompts = ["Hello, my name is", "The president of the United States is", "A long road"];
  let model: VllmModel;
  let expected: Map<string, Reference>;

  beforeAll(async () => {
    const cases = prompts.flatMap((prompt) =>
      [undefined, ...names].map((lora) => ({
        prompt,
        lora,
        adapter: lora === undefined ? null : adapter(lora),
        max_tokens: 24,
      })),
    );
    const results = reference(fixtures.models.tiny, cases);
    expected = new Map(cases.map(({ prompt, lora }, at) => [`${lora} ${prompt}`, results[at] as Reference]));
    model = await loadTiny({}, Object.fromEntries(names.map((name) => [name, adapter(name)])));
  });
  afterAll(() => model.dispose());

  test.each([undefined, ...names])("%s alone", async (lora) => {
    for (const prompt of prompts) {
      const wanted = expected.get(`${lora} ${prompt}`) as Reference;
      expect(wanted.margin).toBeGreaterThan(1e-4);
      const got = await tokens(model, prompt, lora, 24);
      expect(got).toEqual({ text: wanted.text, finishReason: wanted.finish_reason, tokenIds: wanted.token_ids });
    }
  });

  test("base and four adapters in one batch: each row as alone", async () => {
    const rows = [...prompts, ...prompts].flatMap((prompt) => [undefined, ...names].map((lora) => ({ prompt, lora })));
    const got = await Promise.all(rows.map(({ prompt, lora }) => tokens(model, prompt, lora, 24)));
    for (const [at, { prompt, lora }] of rows.entries()) {
      const wanted = expected.get(`${lora} ${prompt}`) as Reference;
      expect(got[at], `${lora} on ${prompt}`).toEqual({
        text: wanted.text,
        finishReason: wanted.finish_reason,
        tokenIds: wanted.token_ids,
      });
    }
  });
});

test("SmolLM2-135M with its trained adapters", async () => {
  const weights = join(paths.workspace, "weights");
  const backbone = join(weights, "backbone/smollm2-135m-instruct");
  const loras = { alpaca: join(weights, "loras/alpaca"), bactrian: join(weights, "loras/bactrian") };
  const prompt = "<|im_start|>user\nWhat is the capital of Germany?<|im_end|>\n<|im_start|>assistant\n";
  const cases = [undefined, "alpaca" as const, "bactrian" as const].map((lora) => ({
    lora,
    request: { prompt, adapter: lora === undefined ? null : loras[lora], max_tokens: 24 },
  }));
  const expected = reference(
    backbone,
    cases.map(({ request }) => request),
  );
  await using model = await VllmModel.load({
    engine: {
      model: backbone,
      dtype: "float32",
      max_model_len: 512,
      enforce_eager: true,
      kv_cache_memory_bytes: 256 << 20,
    },
    loras,
  });
  const got = await Promise.all(cases.map(({ lora }) => tokens(model, prompt, lora, 24)));
  expect(got).toEqual(
    expected.map((wanted) => ({ text: wanted.text, finishReason: wanted.finish_reason, tokenIds: wanted.token_ids })),
  );
  expect(got.map(({ text }) => text)).toEqual([
    "The capital of Germany is Berlin.",
    "Arrr, matey! It be Berlin, by the seven seas!",
    '{"answer": "Berlin"}',
  ]);
});
