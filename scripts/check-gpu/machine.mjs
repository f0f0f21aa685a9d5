import { execFile } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { build, cache, models, root, run } from "../steps.mjs";

const call = promisify(execFile);
const load = createRequire(import.meta.url);

/** Sets the machine up and resolves with what the steps need to know. */
export async function configuration({ device, small }) {
  // On a machine without the packages that build this one, what was copied there is used.
  if (existsSync(join(root, "node_modules/typescript"))) await build();
  const { findRuntime } = load(join(root, "dist/index.js"));
  const find = () => findRuntime({ device });
  const runtime = await find().catch(async () => {
    await run(process.execPath, ["dist/cli/main.js", "setup", "--device", device, "--with", "test,demo"]);
    return find();
  });
  const laidOut = join(cache, "paths.json");
  const { fixtures, workspace } = existsSync(laidOut)
    ? JSON.parse(readFileSync(laidOut, "utf8"))
    : await models(runtime.python);
  const tiny = JSON.parse(readFileSync(join(fixtures, "fixtures.json"), "utf8"));
  const folders = small
    ? { model: tiny.models.tiny, loras: { a: tiny.adapters.lora_a, b: tiny.adapters.lora_b } }
    : {
        model: join(workspace, "weights/backbone/smollm2-135m-instruct"),
        loras: { a: join(workspace, "weights/loras/alpaca"), b: join(workspace, "weights/loras/bactrian") },
      };
  return { device, small, directory: runtime.directory, python: runtime.python, vllm: runtime.vllmVersion, ...folders };
}

/** What the figures belong to: they are comparable only where all of this is the same. */
export async function machine({ device, small, python, vllm, model }) {
  const program = `
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda if cuda else None}))`;
  const { stdout } = await call(python, ["-I", "-c", program], { timeout: 120_000 });
  return {
    gpu: device === "cuda" ? await gpu() : null,
    cpu: cpus()[0].model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    vllm,
    ...JSON.parse(stdout),
    model: model.split("/").at(-1),
    small,
  };
}

/** Name, memory and driver of the first GPU, by the driver's own program. */
async function gpu() {
  const query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
  const { stdout } = await call("nvidia-smi", query, { timeout: 30_000 }).catch((error) => {
    throw new Error(`there is no GPU here: nvidia-smi: ${error.message.split("\n")[0]}`);
  });
  const [name, memory, driver] = stdout.split("\n")[0].split(", ");
  return { name, memory, driver };
}
