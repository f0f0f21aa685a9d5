// One start for bench/start.mjs: `node start-case.mjs cold|warm|crash CONFIG`. Writes "first token" when it has one, then a
// JSON object: `seconds` from the call of `load` (or from the kill) to the token, what each phase took, and memory.
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { VllmModel } from "../dist/index.mjs";

const [what, text] = process.argv.slice(2);
const { model, engine, loras, backend } = JSON.parse(text);

/** MiB, from smaps_rollup (proc(5)). */
function memory(pid) {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const of = (name) => Math.round(Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(rollup)?.[1]) / 1024);
  return { resident: of("Rss"), proportional: of("Pss"), private: of("Private_Dirty") + of("Private_Clean") };
}

const warm = what === "cold" ? undefined : await VllmModel.prewarm();
const waiting = warm && memory(warm.pid);
const taken = warm?.pid;
const began = performance.now();
const phases = [];
const vllm = await VllmModel.load({
  engine: { model, ...engine },
  ...(loras === undefined ? {} : { loras }),
  ...(backend === undefined ? {} : { backend }),
  ...(what === "crash" ? { restart: "on-failure" } : {}),
  onProgress: ({ phase, adapter, elapsed }) => phases.push([phase, adapter, Math.round(elapsed)]),
});
const lora = Object.keys(loras ?? {})[0];
const first = () => vllm.generate("Hello, my name is", { lora, max_tokens: 1, temperature: 0 });
await first();
let seconds = (performance.now() - began) / 1000;
let since = 0;
console.log("first token");
const { pid } = await vllm.info();
if (warm !== undefined && pid !== taken) throw new Error("the load did not take the warm child");
const child = memory(pid);
if (what === "crash") {
  while (warm.pid === undefined || warm.pid === taken) await sleep(100);
  const next = warm.pid;
  const killed = performance.now();
  process.kill(pid, "SIGKILL");
  for (;;) {
    try {
      await first();
      break;
    } catch {
      await sleep(20);
    }
  }
  seconds = (performance.now() - killed) / 1000;
  since = Math.round(killed - began);
  if ((await vllm.info()).pid !== next) throw new Error("the restart did not take the warm child");
}
// What the child does once it is idle is no part of its end.
if (what === "cold") await sleep(6000);
const disposed = performance.now();
await vllm.dispose();
await warm?.dispose();
const dispose = (performance.now() - disposed) / 1000;
// Of a restart only, and since the kill.
const counted = phases.filter(([, , at]) => at >= since).map(([phase, adapter, at]) => [phase, adapter, at - since]);
console.log(JSON.stringify({ seconds, phases: counted, waiting, child, dispose }));
