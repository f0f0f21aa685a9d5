import { createRequire } from "node:module";
import { join } from "node:path";
import { root } from "../../steps.mjs";

export const prompt = "The capital of France is";

/** This package. */
export function open() {
  return createRequire(import.meta.url)(join(root, "dist/index.js"));
}

/** Engine arguments that are the same for everything that is compared. The cache is bounded: a GPU may be shared. */
export function engineOf({ small, model }, changes = {}) {
  return {
    model,
    dtype: small ? "float32" : "bfloat16",
    max_model_len: 512,
    max_num_seqs: 256,
    kv_cache_memory_bytes: small ? 256 << 20 : 2 ** 31,
    enforce_eager: true,
    max_loras: 4,
    max_cpu_loras: 16,
    max_lora_rank: 16,
    ...changes,
  };
}

/** Loads the model with two adapters. */
export function loadModel(config, changes = {}, more = {}) {
  const { VllmModel } = open();
  const { directory, device, loras } = config;
  return VllmModel.load({ runtime: directory, device, engine: engineOf(config, changes), loras, ...more });
}

/** Seconds since `began`, to a hundredth. */
export const since = (began) => Math.round((performance.now() - began) / 10) / 100;
