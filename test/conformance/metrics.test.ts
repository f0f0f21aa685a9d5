import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { VllmModel } from "../../src";
import { temporaryFolder, tinyEngine, writeRepository } from "../support/models";

// Triton's custom metrics of the vLLM backend: absent when unset, false or disable_log_stats; exact counts when on.

function config(value: string | undefined): string {
  const parameter =
    value === undefined ? "" : `parameters: { key: "REPORT_CUSTOM_METRICS" value: { string_value: "${value}" } }\n`;
  return `backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n${parameter}`;
}

/** The value of a metric line of the model, or undefined. */
function metric(text: string, name: string): number | undefined {
  const line = text.split("\n").find((each) => each.startsWith(`${name}{model="vllm_model",version="1"}`));
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ")));
}

describe("REPORT_CUSTOM_METRICS true", () => {
  let model: VllmModel;
  beforeAll(async () => {
    const modelRepository = writeRepository(temporaryFolder(), { model: tinyEngine, config: config("true") });
    model = await VllmModel.load({ modelRepository });
  });
  afterAll(() => model.dispose());

  test("counts exactly what was asked, the warm-up not included", async () => {
    const prompts = ["The most dangerous animal is", "The capital of France is", "The future of AI is"];
    let promptTokens = 0;
    for (const prompt of prompts) {
      const { usage } = await model.generate(prompt, { temperature: 0, max_tokens: 16, ignore_eos: true });
      promptTokens += usage.promptTokens;
      expect(usage.completionTokens).toBe(16);
    }
    // The backend reports on a thread of its own, this metric last.
    await expect.poll(async () => metric(await model.server.metrics(), "vllm:request_params_n_count")).toBe(3);
    const text = await model.server.metrics();
    expect(metric(text, "vllm:prompt_tokens_total")).toBe(promptTokens);
    expect(metric(text, "vllm:generation_tokens_total")).toBe(48);
    expect(metric(text, "vllm:time_to_first_token_seconds_count")).toBe(3);
    expect(metric(text, "vllm:time_per_output_token_seconds_count")).toBe(45);
    expect(metric(text, "vllm:request_prompt_tokens_sum")).toBe(promptTokens);
    expect(metric(text, "vllm:request_generation_tokens_sum")).toBe(48);
    expect(metric(text, "vllm:e2e_request_latency_seconds_count")).toBe(3);
    expect(metric(text, "vllm:e2e_request_latency_seconds_sum")).toBeGreaterThan(0);
    expect(text).toContain('vllm:time_to_first_token_seconds_bucket{model="vllm_model",version="1",le="0.001"}');
  });
});

test.each([
  ["unset", undefined, {}],
  ["false", "false", {}],
  ["true, but disable_log_stats", "true", { disable_log_stats: true }],
])("REPORT_CUSTOM_METRICS %s: none", async (_, value, engine) => {
  const modelRepository = writeRepository(temporaryFolder(), {
    model: { ...tinyEngine, ...engine },
    config: config(value),
  });
  await using model = await VllmModel.load({ modelRepository });
  await model.generate("Hello", { temperature: 0, max_tokens: 4 });
  const text = await model.server.metrics();
  expect(text).toContain("nv_inference_request_success");
  // The families of a model that is gone may remain in Triton; no sample of this one may be there.
  expect(metric(text, "vllm:generation_tokens_total") ?? 0).toBe(0);
});
