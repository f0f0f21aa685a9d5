// Throughput over the number of adapters, in the shape of the S-LoRA paper's experiment (arXiv 2311.03285, section 7):
// Poisson arrivals, power-law popularity, 1 to 1,000 adapters, a fixed seed. One engine serves them all; a run asks only the
// first N, and the runs of one round are interleaved so that a machine's drift meets all of them.
//
//   node bench/adapters-at-scale.mjs [--requests 200] [--rounds 3] [--rate 30] [--out docs/benchmarks]
//
// Needs `npm run demo` once (the workspace with SmolLM2-135M and its adapters).
import { linkSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { VllmModel } from "../dist/index.mjs";
import { checkCounts, readArguments } from "../scripts/arguments.mjs";
import { bars } from "./lib/chart.mjs";
import { median } from "./lib/measure.mjs";
import { table as markdown } from "./lib/table.mjs";

const { values } = readArguments(
  import.meta.filename,
  {
    workspace: { type: "string", default: "workspace" },
    requests: { type: "string", default: "200" },
    rounds: { type: "string", default: "3" },
    rate: { type: "string", default: "30" },
    tokens: { type: "string", default: "32" },
    out: { type: "string" },
  },
  { check: ({ values }) => checkCounts(values, "requests", "rounds", "tokens") },
);
const [requests, rounds, rate, tokens] = [values.requests, values.rounds, values.rate, values.tokens].map(Number);
const sizes = [1, 10, 100, 1000];
// As many as a batch has rows: with fewer, rows wait for a slot, not for the engine.
const slots = 32;
const hostCapacity = 64;

/** Mulberry32: the same requests in every run and on every machine. */
function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Arrival times (s) and adapters: exponential gaps, popularity proportional to 1 / rank. */
function plan(count, seed) {
  const next = random(seed);
  const weights = Array.from({ length: count }, (_, at) => 1 / (at + 1));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  let time = 0;
  return Array.from({ length: requests }, () => {
    time += -Math.log(1 - next()) / rate;
    let left = next() * total;
    let adapter = 0;
    while (adapter < count - 1 && left > weights[adapter]) left -= weights[adapter++];
    return { time, adapter };
  });
}

if (values.out !== undefined) mkdirSync(values.out, { recursive: true });
const folder = mkdtempSync(join(tmpdir(), "tritonode-scale-"));
const source = join(values.workspace, "weights/loras/alpaca");
const loras = {};
for (let number = 0; number < sizes.at(-1); number++) {
  const path = join(folder, String(number));
  mkdirSync(path);
  for (const name of ["adapter_config.json", "adapter_model.safetensors"])
    linkSync(join(source, name), join(path, name));
  loras[`adapter-${number}`] = path;
}

const began = performance.now();
const model = await VllmModel.load({
  engine: {
    model: join(values.workspace, "weights/backbone/smollm2-135m-instruct"),
    max_loras: slots,
    max_cpu_loras: hostCapacity,
    max_model_len: 512,
    max_num_seqs: 32,
    kv_cache_memory_bytes: 512 << 20,
    enforce_eager: true,
    enable_prefix_caching: false,
  },
  loras,
});
const loaded = (performance.now() - began) / 1000;
console.error(`loaded with ${sizes.at(-1)} adapters in ${loaded.toFixed(1)} s`);

async function measure(count, seed) {
  const before = (await model.info()).adapters;
  const start = performance.now();
  const waits = [];
  await Promise.all(
    plan(count, seed).map(async ({ time, adapter }) => {
      await new Promise((resolve) => setTimeout(resolve, time * 1000));
      const asked = performance.now();
      const stream = model.stream("The capital of France is a city that", {
        lora: `adapter-${adapter}`,
        temperature: 0,
        max_tokens: tokens,
        ignore_eos: true,
      });
      let first = true;
      for await (const _ of stream) {
        if (first) waits.push(performance.now() - asked);
        first = false;
      }
    }),
  );
  const seconds = (performance.now() - start) / 1000;
  const after = (await model.info()).adapters;
  return {
    adapters: count,
    tokensPerSecond: (requests * tokens) / seconds,
    firstTokenMs: median(waits),
    loads: after.loads - before.loads,
    evictions: after.evictions - before.evictions,
  };
}

const rows = [];
try {
  await measure(1, 1);
  for (let round = 0; round < rounds; round++) {
    for (const count of sizes) {
      const row = { round, ...(await measure(count, 1000 + round)) };
      rows.push(row);
      console.error(JSON.stringify(row));
    }
  }
} finally {
  await model.dispose();
  rmSync(folder, { recursive: true, force: true });
}

const table = sizes.map((count) => {
  const of = rows.filter((row) => row.adapters === count);
  const pick = (key) => median(of.map((row) => row[key]));
  return {
    adapters: count,
    tokensPerSecond: pick("tokensPerSecond"),
    firstTokenMs: pick("firstTokenMs"),
    loads: pick("loads"),
    evictions: pick("evictions"),
    hits: requests - Math.min(requests, pick("loads")),
  };
});
const ten = table.find((row) => row.adapters === 10).tokensPerSecond;
const lines = markdown(
  ["adapters", "tokens/s", "against 10 adapters", "median time to first token", "hits", "loads from disk", "evictions"],
  table.map((row) => [
    row.adapters,
    row.tokensPerSecond.toFixed(0),
    `${((100 * row.tokensPerSecond) / ten).toFixed(0)}%`,
    `${row.firstTokenMs.toFixed(0)} ms`,
    row.hits,
    row.loads,
    row.evictions,
  ]),
);
console.log(lines.join("\n"));

/** A chart of the table: bars of tokens/s. */
function chart() {
  return bars({
    title: "tokens/s over the number of adapters",
    groups: table.map(({ adapters }) => `${adapters} ${adapters === 1 ? "adapter" : "adapters"}`),
    series: [{ name: "tritonode", values: table.map(({ tokensPerSecond }) => tokensPerSecond) }],
  });
}

if (values.out !== undefined) {
  const meta = {
    requests,
    rounds,
    rate,
    tokens,
    slots,
    hostCapacity,
    node: process.version,
    cpu: cpus()[0].model,
    loaded,
  };
  writeFileSync(join(values.out, "adapters-at-scale.json"), `${JSON.stringify({ meta, table, rows }, undefined, 1)}\n`);
  writeFileSync(join(values.out, "adapters-at-scale.svg"), chart());
}
