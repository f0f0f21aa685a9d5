import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { VllmModel } from "../../src";
import { temporaryFolder } from "../support/folders";
import { tinyEngine, writeRepository } from "../support/models";
import { adapter } from "../support/paths";

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

test("each adapter has counters and histograms of its own", async () => {
  const modelRepository = writeRepository(temporaryFolder(), {
    model: { ...tinyEngine, enable_lora: true },
    loras: { one: adapter("lora_a"), two: adapter("lora_b") },
    config: config("true"),
  });
  await using model = await VllmModel.load({ modelRepository });
  const options = { temperature: 0, max_tokens: 8, ignore_eos: true };
  for (const lora of ["one", "one", "two"]) await model.generate("Hello", { ...options, lora });
  await model.generate("Hello", { ...options, lora: "two", n: 0 }).catch(() => {});
  const value = (text: string, name: string, lora: string) => {
    const line = text.split("\n").find((each) => each.startsWith(`${name}{`) && each.includes(`lora="${lora}"`));
    return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ")));
  };
  await expect
    .poll(async () => value(await model.server.metrics(), "tritonode:lora_e2e_request_latency_seconds_count", "two"))
    .toBe(1);
  const text = await model.server.metrics();
  expect(value(text, "tritonode:lora_requests_total", "one")).toBe(2);
  expect(value(text, "tritonode:lora_generation_tokens_total", "one")).toBe(16);
  expect(value(text, "tritonode:lora_time_to_first_token_seconds_count", "one")).toBe(2);
  expect(value(text, "tritonode:lora_requests_total", "two")).toBe(1);
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
