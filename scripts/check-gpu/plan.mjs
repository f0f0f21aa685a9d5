import { spawn } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** In this order. `limit` is in seconds, on a machine with a GPU; all together are 25 minutes. */
export const steps = [
  { name: "doctor", title: "what `tritonode doctor` says", limit: 60 },
  { name: "load-eager", title: "load without CUDA graphs, first answer", limit: 120 },
  { name: "load-graphs", title: "load with CUDA graphs, first answer", limit: 180 },
  { name: "exact-float32", title: "base and adapters in one batch against PEFT, float32", limit: 120 },
  { name: "exact-bfloat16", title: "base and adapters in one batch against PEFT, bfloat16", limit: 120 },
  { name: "streams", title: "streaming, leaving, aborting; 256 streams; zero sockets", limit: 120 },
  { name: "release-dispose", title: "memory back after dispose", limit: 90 },
  { name: "release-host", title: "memory back after kill -9 of the host", limit: 90 },
  { name: "release-child", title: "memory back after kill -9 of the child", limit: 90 },
  { name: "engine-thread", title: "speed: the engine on a thread", limit: 150 },
  { name: "engine-process", title: "speed: the engine in a process of its own", limit: 180 },
  { name: "engine-server", title: "speed: vLLM's own server", limit: 180 },
];

/** @param only names, comma-separated; undefined: all */
export function chosen(only) {
  if (only === undefined) return steps;
  return only.split(",").map((name) => {
    const step = steps.find((each) => each.name === name);
    if (step === undefined) throw new Error(`--only ${name}: there are ${steps.map((each) => each.name).join(", ")}`);
    return step;
  });
}

/**
 * Runs a step in a process of its own, so that what hangs, crashes or holds memory ends with it.
 *
 * @param left seconds that the whole run still has
 * @returns `{ status: "passed" | "failed" | "timed out", seconds, reason?, ...figures }`
 */
export async function runStep({ name, limit }, config, left) {
  const program = join(fileURLToPath(import.meta.url), "../child.mjs");
  const began = performance.now();
  const child = spawn(process.execPath, ["--expose-gc", program, name], {
    // Signalled as a whole at the end: servers and engines are below it.
    detached: true,
    // The last one closes when this process ends, however it ends: child.mjs.
    stdio: ["pipe", "ignore", "pipe", "pipe", "pipe"],
  });
  const forward = () => end(child.pid);
  process.once("exit", forward);
  child.stdin.end(JSON.stringify(config));
  const text = { 2: "", 3: "" };
  for (const descriptor of [2, 3]) {
    child.stdio[descriptor].setEncoding("utf8").on("data", (chunk) => {
      text[descriptor] = (text[descriptor] + chunk).slice(-1 << 20);
    });
  }
  let timedOut = false;
  // Without a GPU the limits are bounds for a hang: a busy machine with two cores takes its time.
  const seconds = Math.min(config.device === "cuda" ? limit : 5 * limit, left);
  const timer = setTimeout(() => {
    timedOut = true;
    end(child.pid);
  }, seconds * 1000);
  const code = await new Promise((resolve) => child.once("close", resolve));
  clearTimeout(timer);
  process.removeListener("exit", forward);
  end(child.pid);
  const took = Math.round((performance.now() - began) / 100) / 10;
  if (timedOut) return { status: "timed out", seconds: took, reason: `not done after ${seconds} s` };
  try {
    const { failure, ...figures } = JSON.parse(text[3]);
    if (failure !== undefined) return { status: "failed", seconds: took, reason: failure, ...figures };
    return { status: "passed", seconds: took, ...figures };
  } catch {
    const last = text[2].trim().split("\n").slice(-5).join("\n");
    return { status: "failed", seconds: took, reason: `ended with code ${code}: ${last}` };
  }
}

function end(pid) {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // the group is gone
  }
}
