// What the peers are given to run, and the set-up of a machine for it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { build, dependencies, models, runtime } from "../../scripts/steps.mjs";

/** Installs and builds what the benchmarks need. Resolves with the configurations for peers, and versions. */
export async function prepare() {
  await dependencies();
  await dependencies("bench");
  await build();
  const { python, triton, vllmVersion } = await runtime(["test", "demo"]);
  const { fixtures, workspace } = await models(python);

  const common = { enforce_eager: true, max_model_len: 512, max_num_seqs: 256 };
  const tiny = {
    python,
    model: JSON.parse(readFileSync(join(fixtures, "fixtures.json"), "utf8")).models.tiny,
    engine: { ...common, dtype: "float32", kv_cache_memory_bytes: 256 << 20 },
  };
  const smollm2 = {
    python,
    model: join(workspace, "weights/backbone/smollm2-135m-instruct"),
    engine: { ...common, dtype: "bfloat16", kv_cache_memory_bytes: 1 << 30 },
  };
  const loras = Object.fromEntries(
    ["alpaca", "bactrian"].map((name) => [name, join(workspace, "weights/loras", name)]),
  );
  const adapters = {
    ...smollm2,
    loras,
    engine: { ...smollm2.engine, max_loras: 4, max_cpu_loras: 8, max_lora_rank: 16 },
  };
  return { tiny, smollm2, adapters, fixtures, versions: { triton: triton.version, vllm: vllmVersion } };
}
