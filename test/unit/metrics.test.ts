import { once } from "node:events";
import { expect, test } from "vitest";
import { parseMetrics } from "../../src";
import { Emitter } from "../../src/common/emitter";
import { toModelMetrics } from "../../src/model/metrics";

const text = `# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="llama",version="1"} 12
nv_inference_request_success{model="other",version="1"} 99
# HELP nv_inference_request_failure Number of failed inference requests
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="llama",reason="OTHER",version="1"} 1
nv_inference_request_failure{model="llama",reason="CANCELED",version="1"} 2
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="llama",version="1"} 2500000
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model="llama",version="1"} 40
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_count{model="llama",version="1"} 4
vllm:time_to_first_token_seconds_sum{model="llama",version="1"} 0.5
vllm:time_to_first_token_seconds_bucket{model="llama",version="1",le="0.1"} 3
vllm:time_to_first_token_seconds_bucket{model="llama",version="1",le="+Inf"} 4
# TYPE tritonode:lora_requests_total counter
tritonode:lora_requests_total{lora="a \\"b\\" {c}\\n",model="llama",version="1"} 3
# TYPE nv_gpu_power_usage gauge
nv_gpu_power_usage{gpu_uuid="GPU-1"} 7.5e+01 1700000000000
plain 1
odd_value NaN
no number
`;

test("Prometheus' text is read: families, labels with escapes, histograms, time stamps", () => {
  const families = new Map(parseMetrics(text).map((family) => [family.name, family]));
  expect(families.get("nv_inference_request_success")).toMatchObject({
    type: "counter",
    help: "Number of successful inference requests",
  });
  expect(families.get("vllm:time_to_first_token_seconds")?.samples).toHaveLength(4);
  expect(families.get("vllm:time_to_first_token_seconds")?.type).toBe("histogram");
  expect(families.get("tritonode:lora_requests_total")?.samples[0]?.labels["lora"]).toBe('a "b" {c}\n');
  expect(families.get("nv_gpu_power_usage")?.samples[0]?.value).toBe(75);
  expect(families.get("plain")).toMatchObject({ type: "untyped", samples: [{ name: "plain", labels: {}, value: 1 }] });
  expect(families.get("odd_value")?.samples[0]?.value).toBeNaN();
  expect(families.has("no")).toBe(false);
  expect(parseMetrics("")).toEqual([]);
});

test("the metrics of one model, typed", () => {
  const metrics = toModelMetrics(text, "llama");
  expect(metrics.requests).toEqual({ succeeded: 12, failed: 3, pending: 0 });
  expect(metrics.seconds.total).toBe(2.5);
  expect(metrics.vllm?.promptTokens).toBe(40);
  expect(metrics.vllm?.timeToFirstToken).toEqual({
    count: 4,
    sum: 0.5,
    mean: 0.125,
    buckets: [
      { upTo: 0.1, count: 3 },
      { upTo: Number.POSITIVE_INFINITY, count: 4 },
    ],
  });
  expect(Object.keys(metrics.adapters)).toEqual(['a "b" {c}\n']);
  expect(metrics.families.map(({ name }) => name)).not.toContain("nv_gpu_power_usage");
  expect(toModelMetrics(text, "other")).toMatchObject({ requests: { succeeded: 99 }, vllm: undefined, adapters: {} });
});

test("listeners: once, off, Node's own once, and names that do not exist", async () => {
  const emitter = new Emitter<{ tick: number; tock: string }>(["tick", "tock"]);
  const seen: number[] = [];
  const listener = (tick: number) => void seen.push(tick);
  emitter.on("tick", listener);
  emitter.on("tick", listener);
  emitter.once("tick", (tick) => void seen.push(-tick));
  emitter.emit("tick", 1);
  emitter.emit("tick", 2);
  emitter.off("tick", listener);
  emitter.emit("tick", 3);
  expect(seen).toEqual([1, -1, 2]);
  expect(() => emitter.on("tik" as "tick", listener)).toThrow(/there is no event "tik" \(did you mean 'tick'\?\)/);
  expect(() => emitter.on("tick", undefined as never)).toThrow(/must be a function/);
  const target = {
    on: emitter.on.bind(emitter),
    once: emitter.once.bind(emitter),
    removeListener: emitter.off.bind(emitter),
  };
  const next = once(target as never, "tock");
  emitter.emit("tock", "now");
  expect(await next).toEqual(["now"]);
});
