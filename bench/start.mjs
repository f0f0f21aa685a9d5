// `npm run bench:start`: how long it takes to the first token, cold (also with all of vLLM's imports), from a warm child, after
// a crash, and with two ranks; and how long `dispose` takes.
// Writes a line for each and, with --out FOLDER, start.json and the chart start.svg. `--only tiny,smollm2,ranks` runs a part
// and keeps the rows of the others, `--llama` adds node-llama-cpp. Nothing else may run meanwhile.
// Every case is a process of its own and runs once before it counts: then its files are in the page cache, and what a first
// run makes is made (node-llama-cpp's GGUF files, which take Python some seconds; what vLLM remembers of a model).
import { spawn } from "node:child_process";
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkCounts, checkName, readArguments } from "../scripts/arguments.mjs";
import { main, root } from "../scripts/steps.mjs";
import { stacked } from "./lib/chart.mjs";
import { prepare } from "./lib/models.mjs";
import { PeerProcess } from "./lib/peer.mjs";
import { steps } from "./lib/start-steps.mjs";

/** Runs bench/start-case.mjs; resolves with what it reports and the seconds since the process was started. */
function runCase(what, config) {
  return new Promise((resolve, reject) => {
    const began = performance.now();
    const child = spawn(process.execPath, [join(root, "bench/start-case.mjs"), what, JSON.stringify(config)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    let text = "";
    let first;
    child.stdout.setEncoding("utf8").on("data", (chunk) => {
      text += chunk;
      if (first === undefined && text.includes("first token\n")) first = (performance.now() - began) / 1000;
    });
    child.once("error", reject);
    child.once("close", (code) => {
      if (code !== 0) return reject(new Error(`start-case ${what} ended with ${code}`));
      resolve({ sinceProcessStart: first, ...JSON.parse(text.slice(text.indexOf("{"))) });
    });
  });
}

/** From the start of a peer's process to its first two tokens, on the first adapter: gaps need two. */
async function peerStart(name, config) {
  const began = performance.now();
  const peer = new PeerProcess(name, config.python);
  try {
    const answer = await peer.start(config);
    await peer.run([{ prompt: "Hello, my name is", tokens: 2, lora: Object.keys(config.loras ?? {})[0] }]);
    return { ...answer, seconds: (performance.now() - began) / 1000 };
  } finally {
    await peer.stop();
  }
}

/** A copy of the package, as far as its backend needs it, that imports all that vLLM imports. Returns its folder. */
function wholeImports() {
  const folder = mkdtempSync(join(tmpdir(), "tritonode-whole-"));
  cpSync(join(root, "backends"), join(folder, "backends"), { recursive: true });
  for (const kernels of ["build", "prebuilds"]) {
    if (existsSync(join(root, kernels))) symlinkSync(join(root, kernels), join(folder, kernels));
  }
  const replacement = "\n\ndef install_on_cpu() -> None:  # type: ignore[no-redef]\n    pass\n";
  appendFileSync(join(folder, "backends/vllm/tritonode/vllm/lazy_packages.py"), replacement);
  return folder;
}

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

const PARTS = ["tiny", "smollm2", "ranks"];

const { values } = readArguments(
  import.meta.filename,
  {
    only: { type: "string", default: PARTS.join(",") },
    rounds: { type: "string", default: "3" },
    out: { type: "string" },
    llama: { type: "boolean", default: false },
  },
  {
    check({ values }) {
      for (const name of values.only.split(",")) checkName("part", name, PARTS);
      checkCounts(values, "rounds");
    },
  },
);

main(async () => {
  const { tiny, adapters, fixtures } = await prepare();
  const only = values.only.split(",");
  const file = values.out === undefined ? undefined : join(values.out, "start.json");
  const part = ({ model }) => (model.includes("ranks") ? "ranks" : model);
  const rows =
    file !== undefined && existsSync(file)
      ? JSON.parse(readFileSync(file, "utf8")).filter((row) => !only.includes(part(row)))
      : [];
  // Out of the rounds of a cold start: how long `dispose` took once the model was idle.
  const disposals = [];
  const save = () => {
    if (file === undefined) return;
    writeFileSync(file, `${JSON.stringify(rows, undefined, 2)}\n`);
    writeFileSync(join(values.out, "start.svg"), stacked(steps(rows)));
  };
  const measure = async (model, what, run) => {
    await run();
    disposals.length = 0;
    const results = [];
    for (let round = 0; round < Number(values.rounds); round++) results.push(await run());
    const seconds = median(results.map((result) => result.seconds));
    const row = { model, what, rounds: results.length, ...results.find((result) => result.seconds === seconds) };
    rows.push(row);
    console.log(`${model}: ${what}: ${seconds.toFixed(2)} s${row.note ?? ""}`);
    save();
  };
  const report = (model) => {
    const seconds = median(disposals.splice(0));
    rows.push({ model, what: "dispose, idle", seconds });
    console.log(`${model}: dispose, idle: ${(seconds * 1000).toFixed(0)} ms`);
    save();
  };
  const own = (what, config) => async () => {
    const result = await runCase(what, config);
    if (what === "cold") disposals.push(result.dispose);
    return {
      ...result,
      fromLoad: result.seconds,
      seconds: what === "cold" ? result.sinceProcessStart : result.seconds,
    };
  };
  const tinyLoras = Object.fromEntries(["lora_a", "lora_b"].map((name) => [name, join(fixtures, "adapters", name)]));
  for (const [model, config] of [
    ["tiny", { ...tiny, loras: tinyLoras }],
    ["smollm2", adapters],
  ]) {
    if (!only.includes(model)) continue;
    await measure(model, "raw vLLM", () => peerStart("raw", config));
    if (values.llama) {
      await measure(model, "node-llama-cpp", () => peerStart("node-llama-cpp", config));
    }
    const whole = wholeImports();
    const backend = join(whole, "backends/vllm");
    try {
      await measure(model, "cold, with all imports", own("cold", { ...config, backend }));
    } finally {
      rmSync(whole, { recursive: true, force: true });
    }
    disposals.length = 0;
    await measure(model, "cold", own("cold", config));
    report(model);
    await measure(model, "from a warm child", own("warm", config));
    await measure(model, "after kill -9, with a warm child", own("crash", config));
  }
  if (only.includes("ranks")) {
    const config = { ...tiny, model: join(fixtures, "models/tiny_tp") };
    for (const ranks of [1, 2]) {
      const engine = { ...config.engine, tensor_parallel_size: ranks };
      await measure(`tiny, ranks: ${ranks}`, "cold", own("cold", { ...config, engine }));
      report(`tiny, ranks: ${ranks}`);
      await measure(`tiny, ranks: ${ranks}`, "from a warm child", own("warm", { ...config, engine }));
    }
  }
});
