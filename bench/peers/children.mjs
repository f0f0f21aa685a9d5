// Starting and ending the servers that peers measure against.
import { spawn } from "node:child_process";
import { openSync } from "node:fs";
import { createServer } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import { stat, tree } from "../lib/processes.mjs";

/** A TCP port of 127.0.0.1 that is free now. */
export async function freePort() {
  const probe = createServer();
  await new Promise((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** When a process started, in ticks since boot; undefined where it has ended. With it a pid means one process alone. */
function startedAt(pid) {
  const fields = stat(pid);
  return fields[0] === "Z" ? undefined : fields[19];
}

/**
 * Starts a server, its output appended to a file, and waits until it serves.
 *
 * @param {string} command
 * @param {string[]} args
 * @param {{ env: Record<string, string | undefined>, log: string, ready: () => Promise<boolean> }} options `ready` is
 *   asked again and again; what it throws counts as false
 * @returns {Promise<{ stop(): Promise<void> }>} rejects when the server ends instead, or after 5 minutes
 */
export async function startChild(command, args, { env, log, ready }) {
  const output = openSync(log, "a");
  const child = spawn(command, args, { stdio: ["ignore", output, output], env });
  const ended = new Promise((resolve) => child.once("exit", resolve).once("error", resolve));
  const gone = () => child.pid === undefined || child.exitCode !== null || child.signalCode !== null;

  /** Asks it to end, and ends what is left of its tree after 9 seconds. */
  async function stop() {
    if (child.pid === undefined) return;
    const members = tree(child.pid).map((pid) => ({ pid, began: startedAt(pid) }));
    const alive = () => members.filter(({ pid, began }) => began !== undefined && startedAt(pid) === began);
    child.kill("SIGTERM");
    for (const until = performance.now() + 9000; alive().length > 0 && performance.now() < until; ) await delay(50);
    for (const { pid } of alive()) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {} // it has ended meanwhile
    }
    await ended;
  }

  for (const until = performance.now() + 300_000; ; await delay(50)) {
    if (await ready().catch(() => false)) return { stop };
    if (gone() || performance.now() > until) {
      await stop();
      throw new Error(`${command} ${gone() ? "ended" : "is not ready after 5 minutes"}; its log is ${log}`);
    }
  }
}
