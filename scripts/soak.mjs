// `npm run soak -- --streams 20000`: short streams on the tiny model, a third read to the end, a third aborted, a third
// abandoned to the garbage collector, while adapters are loaded, replaced and unloaded. Afterwards every request must be
// accounted for in Triton's and vLLM's own counters, and memory, handles and shared memory be where they started.
//
// Memory is compared between moments of rest, when the child has given back what is free in its heap
// (backends/vllm/tritonode/cpu/heap.py); the most it had in between is reported beside it.
//
// Writes a row for each sample to .cache/soak.csv and ends with exit code 1 if something leaks.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { residentMiB } from "../bench/lib/processes.mjs";
import { checkCounts, readArguments } from "./arguments.mjs";
import { build, cache, main, prepared, root, start } from "./steps.mjs";

const { values } = readArguments(
  import.meta.filename,
  { streams: { type: "string", default: "20000" }, at: { type: "string", default: "48" } },
  { check: ({ values }) => checkCounts(values, "streams", "at") },
);
const total = Number(values.streams);
const atOnce = Number(values.at);
const third = ["read", "aborted", "abandoned"];

function descriptors(pid) {
  return readdirSync(`/proc/${pid}/fd`).length;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Least-squares slope of y over x. */
function slope(points) {
  const mean = (at) => points.reduce((sum, point) => sum + point[at], 0) / points.length;
  const [mx, my] = [mean(0), mean(1)];
  const above = points.reduce((sum, [x, y]) => sum + (x - mx) * (y - my), 0);
  return above / points.reduce((sum, [x]) => sum + (x - mx) ** 2, 0);
}

main(async () => {
  if (globalThis.gc === undefined) {
    prepared();
    await build();
    // The streams that are abandoned end when they are collected, so collecting must be up to this program.
    process.exitCode = await start(process.execPath, ["--expose-gc", import.meta.filename, ...process.argv.slice(2)]);
    return;
  }
  for (const signal of ["SIGINT", "SIGTERM"])
    process.on(signal, () => console.error(`${signal}: the soak was interrupted`));
  const { VllmModel } = await import(join(root, "dist/index.js"));
  const paths = JSON.parse(readFileSync(join(cache, "paths.json"), "utf8"));
  const fixtures = JSON.parse(readFileSync(join(paths.fixtures, "fixtures.json"), "utf8"));
  const { adapters } = fixtures;
  const config =
    'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\nparameters: { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } }\n';
  const repository = join(cache, "soak-repository");
  mkdirSync(join(repository, "soak/1"), { recursive: true });
  writeFileSync(join(repository, "soak/config.pbtxt"), config);
  writeFileSync(
    join(repository, "soak/1/model.json"),
    JSON.stringify({
      model: fixtures.models.tiny,
      dtype: "float32",
      max_model_len: 256,
      kv_cache_memory_bytes: 64 << 20,
      enforce_eager: true,
      enable_lora: true,
      max_loras: 4,
      max_cpu_loras: 8,
      max_lora_rank: 16,
    }),
  );
  writeFileSync(
    join(repository, "soak/1/multi_lora.json"),
    JSON.stringify({ lora_a: adapters.lora_a, lora_b: adapters.lora_b }),
  );
  const model = await VllmModel.load({ modelRepository: repository });
  // Every request that this process sends, control requests included.
  // The first is the channel that the load has opened (src/transport/deltas.ts).
  let sent = 1;
  const infer = model.server.infer.bind(model.server);
  model.server.infer = (request) => {
    sent++;
    return infer(request);
  };
  const { pid } = await model.info();
  const shared = () =>
    readdirSync("/dev/shm").filter((name) => name.startsWith(model.server.sharedMemoryPrefix)).length;
  const collect = async () => {
    for (let i = 0; i < 3; i++) {
      globalThis.gc();
      await pause(20);
    }
  };
  /** Waits until nothing runs any more, streams that were abandoned included, and the child has tidied up. */
  const rest = async () => {
    resting = true;
    await collect();
    for (let i = 0; i < 100; i++) {
      const { running, waiting } = (await model.info()).requests;
      if (running + waiting === 0) break;
      await collect();
    }
    // A change of adapters that was under way ends in this time, too; then the child looks twice, a second apart.
    await pause(3500);
  };

  const counts = { read: 0, aborted: 0, abandoned: 0, failed: 0, adapterSteps: 0 };
  const errors = new Map();
  const loras = [undefined, "lora_a", "lora_b"];

  async function one(index) {
    const how = third[index % 3];
    const lora = loras[Math.floor(index / 3) % 3];
    const controller = new AbortController();
    const stream = model.stream(`Number ${index} of many says`, {
      lora,
      max_tokens: how === "read" ? 8 : 120,
      temperature: 0,
      ignore_eos: true,
      signal: how === "aborted" ? controller.signal : undefined,
    });
    try {
      await stream.next();
      if (how === "abandoned") {
        counts.abandoned++;
        return;
      }
      if (how === "aborted") setImmediate(() => controller.abort());
      for await (const _ of stream) void _;
      counts.read++;
    } catch (error) {
      if (how === "aborted" && error.code === "ERR_REQUEST_CANCELLED") {
        counts.aborted++;
        return;
      }
      counts.failed++;
      errors.set(error.message, (errors.get(error.message) ?? 0) + 1);
    }
  }

  /** Loads, replaces and unloads one adapter after the other, until the streams are done. */
  async function changeAdapters(isOver) {
    const names = Object.keys(adapters).filter((name) => !/^lora_[ab]$/.test(name));
    for (let i = 0; !isOver(); i++) {
      while (resting && !isOver()) await pause(50);
      const name = names[i % names.length];
      await model.adapters.load("changing", adapters[name]);
      await model.generate("Hello", { lora: "changing", max_tokens: 2 });
      await model.adapters.replace("changing", adapters[names[(i + 1) % names.length]]);
      await model.adapters.unload("changing");
      counts.adapterSteps += 3;
      await pause(250);
    }
  }

  // Memory grows to its working size first: pools of threads, caches, the garbage collector's heap.
  const warm = Math.floor(total / 2);
  const samples = [];
  let over = false;
  let resting = false;
  let rested = 0;
  let most = 0;
  let next = 0;
  let done = 0;
  const changing = changeAdapters(() => over);
  const handles = { host: descriptors(process.pid), child: descriptors(pid), shared: shared() };
  const watch = setInterval(() => {
    if (!resting) most = Math.max(most, residentMiB(pid));
  }, 200);
  const began = performance.now();

  /** Writes down what there is at rest; times are of work alone, in seconds. */
  async function sample() {
    const worked = (performance.now() - began) / 1000 - rested;
    await rest();
    samples.push([
      done,
      residentMiB(process.pid),
      residentMiB(pid),
      descriptors(process.pid),
      descriptors(pid),
      shared(),
      most,
      worked,
    ]);
    const [host, child, busy] = [1, 2, 6].map((column) => samples.at(-1)[column].toFixed(0));
    console.log(
      `${done} streams, ${worked.toFixed(0)} s: Node ${host} MiB, child ${child} MiB, ${busy} MiB while it worked`,
    );
    most = 0;
    rested = (performance.now() - began) / 1000 - worked;
    resting = false;
  }

  await sample();
  const step = Math.max(100, Math.floor(total / 20));
  while (next < total) {
    const until = Math.min(total, next + step);
    const runner = async () => {
      while (next < until) {
        await one(next++);
        if (++done % 64 === 0) globalThis.gc({ type: "minor" });
      }
    };
    await Promise.all(Array.from({ length: atOnce }, runner));
    await sample();
  }
  over = true;
  clearInterval(watch);
  await changing;
  await rest();

  const info = await model.info();
  const list = await model.adapters.list();
  const asked = sent;
  const statistics = await model.server.modelStatistics("soak");
  const triton = statistics.model_stats[0].inference_stats;
  const metrics = await model.server.metrics();
  const end = { host: descriptors(process.pid), child: descriptors(pid), shared: shared() };
  const live = model.server.runningRequests;
  const steady = samples.filter(([count]) => count > warm);
  const perThousand = (column) => slope(steady.map((row) => [row[0] / 1000, row[column]]));
  const generated = /vllm:e2e_request_latency_seconds_count\S* (\d+)/.exec(metrics)?.[1];
  await model.dispose();

  const report = {
    streams: done,
    seconds: Math.round(samples.at(-1).at(-1)),
    ...counts,
    errors: Object.fromEntries(errors),
    nodeMiBPerThousandStreams: Number(perThousand(1).toFixed(3)),
    childMiBPerThousandStreams: Number(perThousand(2).toFixed(3)),
    handlesBefore: handles,
    handlesAfter: end,
    runningInNode: live,
    runningInVllm: info.requests,
    sent: asked,
    triton: { success: triton.success.count, fail: triton.fail?.count, cancel: triton.cancel?.count },
    vllmRequestsFinished: generated === undefined ? undefined : Number(generated),
    adapters: list.map(({ name, running, served, failed }) => ({ name, running, served, failed })),
  };
  console.log(JSON.stringify(report, undefined, 2));
  writeFileSync(
    join(cache, "soak.csv"),
    [
      "streams,node_mib,child_mib,node_fds,child_fds,regions,child_most_mib,seconds",
      ...samples.map((row) => row.join(",")),
    ].join("\n"),
  );
  writeFileSync(join(cache, "soak.json"), JSON.stringify(report, undefined, 2));

  const problems = [];
  const accounted = counts.read + counts.aborted + counts.abandoned;
  if (accounted + counts.failed !== total)
    problems.push(`${total - accounted - counts.failed} streams are unaccounted for`);
  if (counts.failed > 0) problems.push(`${counts.failed} streams failed`);
  const inTriton = [triton.success, triton.fail, triton.cancel].reduce((sum, each) => sum + (each?.count ?? 0), 0);
  if (inTriton !== asked) problems.push(`${asked} requests were sent, Triton counts ${inTriton}`);
  // An abandoned stream may run to its end before it is collected.
  const least = counts.read + counts.adapterSteps / 3;
  if (!(report.vllmRequestsFinished >= least && report.vllmRequestsFinished <= least + counts.abandoned)) {
    problems.push(
      `${least} to ${least + counts.abandoned} requests ran to their end, vLLM counts ${report.vllmRequestsFinished}`,
    );
  }
  const onAdapters = list.reduce((sum, { served, failed }) => sum + served + failed, 0);
  const meant = Array.from({ length: total }, (_, index) => loras[Math.floor(index / 3) % 3]).filter(Boolean).length;
  if (onAdapters !== meant) problems.push(`${meant} streams named an adapter, the adapters count ${onAdapters}`);
  if (live !== 0 || info.requests.running + info.requests.waiting !== 0) problems.push("requests still run");
  if (list.some(({ running }) => running !== 0)) problems.push("adapters still count running requests");
  if (end.shared !== handles.shared)
    problems.push(`shared memory: ${handles.shared} regions before, ${end.shared} after`);
  for (const side of ["host", "child"]) {
    if (end[side] > handles[side] + 4)
      problems.push(`${side}: ${handles[side]} descriptors before, ${end[side]} after`);
  }
  // 2 KiB a stream is less than one leaked prompt with its state would be.
  for (const [name, column] of [
    ["Node", 1],
    ["the child", 2],
  ]) {
    if (steady.length >= 5 && perThousand(column) > 2) {
      problems.push(`${name} grows by ${perThousand(column).toFixed(2)} MiB per 1,000 streams`);
    }
  }
  for (const problem of problems) console.error(`leak: ${problem}`);
  console.log(problems.length === 0 ? "nothing leaks" : `${problems.length} problems`);
  process.exitCode = problems.length === 0 ? 0 : 1;
});
