import { type MetricFamily, type MetricSample, parseMetrics } from "../server/prometheus";

/** A Prometheus histogram. */
export interface Histogram {
  /** The number of values. */
  readonly count: number;
  /** Their sum. */
  readonly sum: number;
  /** `sum / count`; 0 if there are no values. */
  readonly mean: number;
  /** The number of values that are at most `upTo`; the last bucket counts all values (`Infinity`). */
  readonly buckets: readonly { readonly upTo: number; readonly count: number }[];
}

/** Metrics of the requests that used one adapter, over all its versions. */
export interface AdapterMetrics {
  /** Requests that were answered. */
  readonly requests: number;
  /** Requests that failed or were cancelled. */
  readonly failures: number;
  /** Tokens that were generated. */
  readonly generationTokens: number;
  /** Seconds. */
  readonly timeToFirstToken: Histogram;
  /** Seconds from a request's arrival to its end. */
  readonly latency: Histogram;
}

/** vLLM's own metrics. */
export interface EngineMetrics {
  /** Prompt tokens since the load. */
  readonly promptTokens: number;
  /** Generated tokens since the load. */
  readonly generationTokens: number;
  /** Seconds. */
  readonly timeToFirstToken: Histogram;
  /** Seconds. */
  readonly timePerOutputToken: Histogram;
  /** Seconds from a request's arrival to its end. */
  readonly latency: Histogram;
  /** Tokens. */
  readonly promptLength: Histogram;
  /** Tokens. */
  readonly generationLength: Histogram;
}

/** The result of {@link VllmModel.metrics}: metrics of this model since it was loaded. */
export interface ModelMetrics {
  /** Requests as Triton counts them, including the model's own control requests. */
  readonly requests: { readonly succeeded: number; readonly failed: number; readonly pending: number };
  /** Sums over all requests, in seconds: from arrival to end, and the part that was spent waiting. */
  readonly seconds: { readonly total: number; readonly queue: number };
  /** Undefined unless the model's config.pbtxt sets the parameter REPORT_CUSTOM_METRICS to "true". */
  readonly vllm: EngineMetrics | undefined;
  /** By adapter's name. Adapters without a request are absent; without REPORT_CUSTOM_METRICS all are. */
  readonly adapters: Readonly<Record<string, AdapterMetrics>>;
  /** Every metric of this model, parsed. */
  readonly families: readonly MetricFamily[];
  /** The metrics of the whole server in Prometheus' text format, as {@link TritonServer.metrics} returns them. */
  readonly text: string;
}

/** Reads the metrics of one model out of Triton's. */
export function toModelMetrics(text: string, model: string): ModelMetrics {
  const families = parseMetrics(text)
    .map((family) => ({ ...family, samples: family.samples.filter(({ labels }) => labels["model"] === model) }))
    .filter(({ samples }) => samples.length > 0);
  const read = new Reader(families);
  const names = new Set(read.samples("tritonode:lora_requests_total").map(({ labels }) => labels["lora"] ?? ""));
  for (const { labels } of read.samples("tritonode:lora_failures_total")) names.add(labels["lora"] ?? "");
  return {
    requests: {
      succeeded: read.sum("nv_inference_request_success"),
      failed: read.sum("nv_inference_request_failure"),
      pending: read.sum("nv_inference_pending_request_count"),
    },
    seconds: {
      total: read.sum("nv_inference_request_duration_us") / 1e6,
      queue: read.sum("nv_inference_queue_duration_us") / 1e6,
    },
    vllm: read.has("vllm:prompt_tokens_total")
      ? {
          promptTokens: read.sum("vllm:prompt_tokens_total"),
          generationTokens: read.sum("vllm:generation_tokens_total"),
          timeToFirstToken: read.histogram("vllm:time_to_first_token_seconds"),
          timePerOutputToken: read.histogram("vllm:time_per_output_token_seconds"),
          latency: read.histogram("vllm:e2e_request_latency_seconds"),
          promptLength: read.histogram("vllm:request_prompt_tokens"),
          generationLength: read.histogram("vllm:request_generation_tokens"),
        }
      : undefined,
    adapters: Object.fromEntries(
      [...names].map((lora) => [
        lora,
        {
          requests: read.sum("tritonode:lora_requests_total", lora),
          failures: read.sum("tritonode:lora_failures_total", lora),
          generationTokens: read.sum("tritonode:lora_generation_tokens_total", lora),
          timeToFirstToken: read.histogram("tritonode:lora_time_to_first_token_seconds", lora),
          latency: read.histogram("tritonode:lora_e2e_request_latency_seconds", lora),
        },
      ]),
    ),
    families,
    text,
  };
}

class Reader {
  readonly #families: Map<string, MetricFamily>;

  constructor(families: readonly MetricFamily[]) {
    this.#families = new Map(families.map((family) => [family.name, family]));
  }

  has(name: string): boolean {
    return this.#families.has(name);
  }

  samples(name: string, lora?: string): MetricSample[] {
    const samples = this.#families.get(name)?.samples ?? [];
    return samples.filter(({ labels }) => lora === undefined || labels["lora"] === lora);
  }

  sum(name: string, lora?: string): number {
    return this.samples(name, lora).reduce((total, { value }) => total + value, 0);
  }

  histogram(name: string, lora?: string): Histogram {
    const samples = this.samples(name, lora);
    const one = (ending: string) => samples.find((sample) => sample.name === name + ending)?.value ?? 0;
    const [count, sum] = [one("_count"), one("_sum")];
    const buckets = samples
      .filter((sample) => sample.name === `${name}_bucket`)
      .map(({ labels, value }) => ({ upTo: Number(labels["le"]?.replace("+Inf", "Infinity")), count: value }));
    return { count, sum, mean: count === 0 ? 0 : sum / count, buckets };
  }
}
