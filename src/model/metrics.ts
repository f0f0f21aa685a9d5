import { type MetricFamily, type MetricSample, parseMetrics } from "../server/prometheus";

/** A distribution, as Prometheus counts it. */
export interface Histogram {
  /** How many values there are. */
  readonly count: number;
  /** Their sum. */
  readonly sum: number;
  /** `sum / count`; 0 where there is none. */
  readonly mean: number;
  /** How many values were at most `upTo`; the last bucket is for all of them (`Infinity`). */
  readonly buckets: readonly { readonly upTo: number; readonly count: number }[];
}

/** What requests on one adapter have made, over all its versions. */
export interface AdapterMetrics {
  /** That it has answered. */
  readonly requests: number;
  /** Failed or cancelled. */
  readonly failures: number;
  /** That it has generated. */
  readonly generationTokens: number;
  /** Seconds. */
  readonly timeToFirstToken: Histogram;
  /** Seconds from a request's arrival to its end. */
  readonly latency: Histogram;
}

/** vLLM's own measures. */
export interface EngineMetrics {
  /** Read since the load. */
  readonly promptTokens: number;
  /** Generated since the load. */
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

/** What {@link VllmModel.metrics} resolves with: of this model, since it was loaded. */
export interface ModelMetrics {
  /** As Triton counts them, the model's own control requests included. */
  readonly requests: { readonly succeeded: number; readonly failed: number; readonly pending: number };
  /** Sums over all requests, in seconds: from arrival to end, and the part that was spent waiting. */
  readonly seconds: { readonly total: number; readonly queue: number };
  /** Undefined unless the model's config.pbtxt sets the parameter REPORT_CUSTOM_METRICS to "true". */
  readonly vllm: EngineMetrics | undefined;
  /** By name; adapters that have served no request are absent, and all of them without REPORT_CUSTOM_METRICS. */
  readonly adapters: Readonly<Record<string, AdapterMetrics>>;
  /** Every metric of this model, parsed. */
  readonly families: readonly MetricFamily[];
  /** Prometheus' text of the whole server, as {@link TritonServer.metrics} gives it. */
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
