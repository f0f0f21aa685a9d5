import { afterAll, beforeAll, expect, test } from "vitest";
import type { VllmModel } from "../../src";
import { ask, loadTiny, output } from "../support/models";

// A token that a sampling parameter rules out has the log probability minus infinity, which JSON has no number for.
// vLLM's OpenAI server writes -9999 then, and so does this backend, whichever way the response takes.

const topOne = { top_k: 1, logprobs: 3, max_tokens: 4, ignore_eos: true };
let model: VllmModel;

beforeAll(async () => {
  model = await loadTiny({ logprobs_mode: "processed_logprobs" }, {});
});
afterAll(() => model.dispose());

test("the contract's logprobs are JSON", async () => {
  const [response] = await ask(model, {
    text: "Hello",
    sampling: topOne,
    returns: ["return_logprobs", "return_cumulative_logprob"],
  });
  const positions = JSON.parse(output(response, "logprobs")?.[0] as string) as Record<string, { logprob: number }>[];
  expect(positions).toHaveLength(4);
  for (const position of positions) {
    const values = Object.values(position).map(({ logprob }) => logprob);
    expect(values).toContain(0);
    expect(values).toContain(-9999);
  }
  expect(output(response, "cumulative_logprob")).toEqual([0]);
});

test("so are those of generate", async () => {
  const { logprobs, cumulativeLogprob } = await model.generate("Hello", topOne);
  expect(logprobs).toHaveLength(4);
  expect(logprobs?.every((position) => position.some(({ logprob }) => logprob === -9999))).toBe(true);
  expect(cumulativeLogprob).toBe(0);
});

test("so are those of stream", async () => {
  const positions = [];
  for await (const { logprobs } of model.stream("Hello", topOne)) positions.push(...(logprobs ?? []));
  expect(positions).toHaveLength(4);
  expect(positions.every((position) => position.some(({ logprob }) => logprob === -9999))).toBe(true);
});

test("so are those of the OpenAI API", async () => {
  const response = await model.fetch("/v1/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: model.name, prompt: "Hello", ...topOne }),
  });
  const body = (await response.json()) as { choices: [{ logprobs: { top_logprobs: Record<string, number>[] } }] };
  expect(body.choices[0].logprobs.top_logprobs.every((top) => Object.values(top).includes(-9999))).toBe(true);
});
