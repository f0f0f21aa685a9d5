import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { tree } from "../../../bench/lib/processes.mjs";
import { isRunning, watchMemory } from "../processes.mjs";
import { loadModel, prompt, since } from "./model.mjs";

const limit = 2_000;
/** What a driver may keep for itself between two measurements, MiB. */
const tolerance = 64;

/** A host of its own, which streams until it is told to dispose or is killed. */
async function host(config) {
  const memoryOf = await watchMemory(config.device);
  const before = memoryOf([]);
  const child = spawn(process.execPath, [fileURLToPath(import.meta.url)], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  child.stdin.write(`${JSON.stringify(config)}\n`);
  const next = async () => {
    const { value } = await lines.next();
    if (value === undefined) throw new Error("the host ended by itself");
    return JSON.parse(value);
  };
  const { engine, prefix } = await next();
  const pids = tree(engine);
  const loaded = memoryOf([child.pid, ...pids]);
  return { child, engine, prefix, pids, memoryOf, before, loaded, next };
}

/** Milliseconds until the processes are gone and memory is back; fails after two seconds. */
async function released({ prefix, pids, memoryOf, before, loaded }, gone) {
  const began = performance.now();
  for (;;) {
    const left = pids.filter(isRunning);
    const used = memoryOf(left);
    const shared = readdirSync("/dev/shm").filter((name) => name.includes(prefix));
    const milliseconds = Math.round(performance.now() - began);
    const figures = { loadedMiB: Math.round(loaded - before), leftMiB: Math.round(used - before), milliseconds };
    if (left.length === 0 && used - before <= tolerance && (!gone || shared.length === 0)) return figures;
    if (milliseconds > limit) {
      const what = `after 2 s: processes ${left.join(", ") || "none"}, ${figures.leftMiB} MiB, ${shared.length} regions`;
      throw Object.assign(new Error(what), { figures });
    }
    await delay(20);
  }
}

export async function releaseDispose(config) {
  const running = await host(config);
  const began = performance.now();
  running.child.stdin.write("dispose\n");
  await running.next();
  const disposeSeconds = since(began);
  const figures = await released(running, false);
  running.child.kill("SIGKILL");
  return { disposeSeconds, ...figures };
}

export async function releaseHost(config) {
  const running = await host(config);
  running.child.kill("SIGKILL");
  return released(running, true);
}

export async function releaseChild(config) {
  const running = await host(config);
  process.kill(running.engine, "SIGKILL");
  // The host lives on.
  const figures = await released(running, false);
  const { code } = await running.next();
  running.child.kill("SIGKILL");
  if (code !== "ERR_ENGINE_DIED") throw Object.assign(new Error(`the stream ended with ${code}`), { figures });
  return { ...figures, code };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const model = await loadModel(JSON.parse((await lines.next()).value));
  const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
  const { pid } = await model.info();
  let streaming;
  const first = new Promise((resolve) => {
    streaming = resolve;
  });
  const run = async () => {
    const options = { temperature: 0, max_tokens: 400, ignore_eos: true };
    for (;;) for await (const piece of model.stream(prompt, options)) streaming(piece);
  };
  run().catch(({ code }) => code === "ERR_ENGINE_DIED" && say({ code }));
  await first;
  say({ engine: pid, prefix: model.server.sharedMemoryPrefix });
  if ((await lines.next()).value === "dispose") {
    await model.dispose();
    say({ disposed: true });
  }
  await delay(60_000);
}
