/** Information about a loaded model. */
export interface ModelInfo {
  /** The base model's folder or file. */
  readonly model: string;
  /** The vLLM that serves it, e.g. `"0.32.0"`. */
  readonly vllmVersion: string;
  /** The Python child's process id. */
  readonly pid: number;
  /** Seconds that the engine took to load. */
  readonly loadSeconds: number;
  /** The number of tokens that the KV cache holds, its size if it is known, and the longest sequence. */
  readonly kvCache: { readonly tokens: number; readonly bytes: number | undefined; readonly maxModelLen: number };
  /** The numbers of requests, as vLLM counts them. */
  readonly requests: { readonly running: number; readonly waiting: number };
  /** Whether it can serve adapters. */
  readonly enableLora: boolean;
  /** Adapters read from disk since the start, evicted from host memory, and in it now; undefined without LoRA. */
  readonly adapters: { readonly loads: number; readonly evictions: number; readonly inMemory: number } | undefined;
  /** The engine arguments that were used, defaults included. */
  readonly engineArgs: Readonly<Record<string, unknown>>;
}

interface RawInfo {
  model: string;
  vllm_version: string;
  pid: number;
  load_seconds: number;
  kv_cache: { tokens: number; bytes: number | null; max_model_len: number };
  requests: { running: number; waiting: number };
  enable_lora: boolean;
  adapters: { loads: number; evictions: number; in_memory: number } | null;
  engine_args: Record<string, unknown>;
}

/** Reads the answer of the `info` operation (Service._info in backends/vllm/tritonode/service.py). */
export function toModelInfo(answer: unknown): ModelInfo {
  const raw = answer as RawInfo;
  const { in_memory: inMemory, ...counts } = raw.adapters ?? { loads: 0, evictions: 0, in_memory: 0 };
  return {
    model: raw.model,
    vllmVersion: raw.vllm_version,
    pid: raw.pid,
    loadSeconds: raw.load_seconds,
    kvCache: {
      tokens: raw.kv_cache.tokens,
      bytes: raw.kv_cache.bytes ?? undefined,
      maxModelLen: raw.kv_cache.max_model_len,
    },
    requests: raw.requests,
    enableLora: raw.enable_lora,
    adapters: raw.adapters === null ? undefined : { ...counts, inMemory },
    engineArgs: raw.engine_args,
  };
}
