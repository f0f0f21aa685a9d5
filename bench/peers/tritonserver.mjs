// The stock tritonserver of the runtime's wheel, set up as docs/guides/stock-tritonserver.md says.
import { chmodSync, copyFileSync, cpSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { findRuntime } from "../../dist/index.mjs";
import { startChild } from "./children.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** The model's name in the repository. */
export const MODEL = "vllm_model";

/** Sampling parameters of the contract's one greedy request, as text; both architectures read the same. */
export function samplingParameters({ tokens, lora }) {
  return JSON.stringify({
    temperature: 0,
    max_tokens: tokens,
    min_tokens: tokens,
    ignore_eos: true,
    ...(lora === undefined ? {} : { lora_name: lora }),
  });
}

/** Writes the model repository: the same files for both architectures. */
function writeRepository(folder, { model, loras, engine }) {
  const version = join(folder, MODEL, "1");
  mkdirSync(version, { recursive: true });
  writeFileSync(
    join(version, "model.json"),
    JSON.stringify({ model, ...engine, ...(loras === undefined ? {} : { enable_lora: true }) }),
  );
  if (loras !== undefined) writeFileSync(join(version, "multi_lora.json"), JSON.stringify(loras));
  writeFileSync(
    join(folder, MODEL, "config.pbtxt"),
    'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n',
  );
}

/** Lays out the folder of backends. Copies, for Triton refuses a library that a link leads out of its folder. */
function writeBackends(folder, triton, architecture) {
  const python = join(folder, "python");
  mkdirSync(python, { recursive: true });
  for (const name of readdirSync(triton.pythonBackend)) {
    if (/\.(so|py)$/.test(name)) copyFileSync(join(triton.pythonBackend, name), join(python, name));
  }
  const stub = join(python, "triton_python_backend_stub");
  copyFileSync(triton.stub, stub);
  chmodSync(stub, 0o755);
  const source = architecture === "upstream" ? "bench/peers/upstream" : "backends/vllm";
  cpSync(join(root, source), join(folder, "vllm"), { recursive: true });
}

/**
 * Starts the server with one of its endpoints.
 *
 * @param {object} config a peer's config
 * @param {"http" | "grpc"} endpoint
 * @param {number} port of that endpoint
 * @param {() => Promise<boolean>} ready whether the model is served
 */
export async function startTriton(config, endpoint, port, ready) {
  const { python, scratch, architecture, log } = config;
  const { triton, libpythonDirectory } = await findRuntime({ directory: join(dirname(python), "../..") });
  const repository = join(scratch, "model_repository");
  const backends = join(scratch, "backends");
  writeRepository(repository, config);
  writeBackends(backends, triton, architecture);
  const endpoints = ["http", "grpc", "metrics"].map((name) => `--allow-${name}=${name === endpoint}`);
  const args = [
    `--model-repository=${repository}`,
    `--backend-directory=${backends}`,
    ...endpoints,
    `--${endpoint}-port=${port}`,
    `--${endpoint}-address=127.0.0.1`,
  ];
  const env = {
    ...process.env,
    LD_LIBRARY_PATH: [libpythonDirectory, triton.dependencyDirectory].join(delimiter),
    TRITONODE_PUNICA_LIBRARY: join(root, `prebuilds/linux-${process.arch}/libtritonode_punica.so`),
  };
  return startChild(triton.server, args, { env, log, ready });
}
