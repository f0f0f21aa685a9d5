// What perplexity.mjs and table.mjs measure with: the runtime, the peers' packages, files of weights and texts.
import { mkdirSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { build, cache, dependencies, models, output, root, runtime } from "../../scripts/steps.mjs";

/**
 * Installs, builds and makes what is missing.
 *
 * @param large whether the models of 1.1B and 3B parameters are made too (2.5 GB)
 * @returns the runtime's Python, the SmolLM2 folder in bf16, and the files that weights.py names
 */
export async function prepareLinear({ large = false } = {}) {
  await dependencies();
  await dependencies("bench");
  await build();
  const { python } = await runtime(["test", "demo"]);
  const { workspace } = await models(python);
  const folder = join(cache, "linear");
  mkdirSync(folder, { recursive: true });
  const text = await output(python, ["bench/linear/weights.py", folder, ...(large ? ["--large"] : [])]);
  return {
    python,
    folder,
    smollm2: join(workspace, "weights/backbone/smollm2-135m-instruct"),
    files: JSON.parse(text),
  };
}

/** The processor, and bytes a second of a plain sum on all its threads, the best of eight. */
export async function machine(python) {
  const code =
    "import sys; sys.path.insert(0, 'bench/linear'); import kernels; print(kernels.bandwidth(), kernels.processor(), sep='\\n')";
  const [bandwidth, processor] = (await output(python, ["-c", code], { cwd: root })).trim().split("\n").slice(-2);
  return { bandwidth: Number(bandwidth), processor: processor || cpus()[0].model };
}
