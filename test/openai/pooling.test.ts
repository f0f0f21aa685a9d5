import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { VllmModel } from "../../src";
import { ask, loadTiny, output } from "../support/models";
import { adapter, root } from "../support/paths";

// A model that embeds: vLLM serves other routes for it.
let model: VllmModel;
beforeAll(async () => {
  model = await loadTiny({ runner: "pooling", convert: "embed" }, { lora_a: adapter("lora_a") });
});
afterAll(() => model?.dispose());

const texts = ["The sea is blue.", "Ships sail on it.", "Tax law, section 12"];

async function post(path: string, body: object): Promise<Record<string, unknown>> {
  const response = await model.fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  expect(response.status).toBe(200);
  return (await response.json()) as Record<string, unknown>;
}

test("embed gives a vector for each text, the same as the contract's tensors; adapters differ", async () => {
  const { embeddings, usage } = await model.embed(texts);
  expect(embeddings).toHaveLength(3);
  expect(usage.promptTokens).toBeGreaterThan(0);
  for (const vector of embeddings) {
    expect(vector).toBeInstanceOf(Float32Array);
    expect(Math.hypot(...vector)).toBeCloseTo(1, 4);
  }
  const [response] = await ask(model, { text: "", embedding: JSON.stringify({ input: texts[0] }) });
  const contract = JSON.parse(String(output(response, "text_output")?.[0])) as number[];
  contract.forEach((value, at) => {
    expect(embeddings[0]?.[at]).toBeCloseTo(value, 5);
  });
  const adapted = await model.embed(texts[0] as string, { lora: "lora_a" });
  expect(adapted.embeddings[0]).not.toEqual(embeddings[0]);
  expect((await model.adapters.get("lora_a")).served).toBe(1);
});

test("the OpenAI client and LangChain embed", async () => {
  const { embed, connect } = await import(join(root, "examples/openai/main.mjs"));
  const { embeddings } = await import(join(root, "examples/langchain/main.mjs"));
  const [vector] = (await model.embed(texts[0] as string)).embeddings;
  for (const [first] of [
    await embed(connect(model), "vllm_model", texts),
    await embeddings(model, "vllm_model").embedDocuments(texts),
  ]) {
    expect(first).toHaveLength(vector?.length ?? 0);
    expect(first[0]).toBeCloseTo(vector?.[0] ?? 0, 5);
  }
});

test("pooling, score and rerank answer", async () => {
  const pooled = (await post("/pooling", { input: texts[0] })) as { data: { data: number[] }[] };
  expect(pooled.data[0]?.data.length).toBeGreaterThan(0);
  const scores = (await post("/score", { text_1: texts[0], text_2: texts.slice(1) })) as { data: { score: number }[] };
  expect(scores.data).toHaveLength(2);
  const ranked = (await post("/rerank", { query: texts[0], documents: texts })) as {
    results: { index: number; relevance_score: number }[];
  };
  // Nothing is nearer to a text than itself.
  expect(ranked.results[0]).toMatchObject({ index: 0 });
  expect(ranked.results[0]?.relevance_score).toBeCloseTo(1, 4);
});

test("what it does not do is refused by name", async () => {
  await expect(model.chat([{ role: "user", content: "Hi" }])).rejects.toMatchObject({
    code: "ERR_HTTP_STATUS",
    status: 404,
  });
  await expect(model.generate("Hi")).rejects.toThrow(/does not support 'generate'/);
});
