import { execFile } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { findRuntime } from "../../src/runtime/find/find";
import type { Runtime } from "../../src/runtime/runtime";
import { command, commandModel, until } from "../support/triton";

interface Outcome {
  code: number | null;
  signal: string | null;
  stderr: string;
  milliseconds: number;
  served: { directory: string; prefix: string; children: number[] };
}

/** A zombie is gone: only its parent's wait is missing, and in a container nobody may do that. */
function running(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

describe("a process that ends with a server running", () => {
  let runtime: Runtime;

  beforeAll(async () => {
    runtime = await findRuntime();
  });

  function run(how: string, streaming: boolean, inWorker = false): Promise<Outcome> {
    const request = command({ count: 1_000_000, sleep: 0.005 });
    const argument = JSON.stringify({ runtime, code: commandModel, request, how, streaming, inWorker });
    return new Promise((resolve) => {
      let up = 0;
      const child = execFile(
        process.execPath,
        [join(__dirname, "../support/exit-child.cjs"), argument],
        // What is used after it was freed shows as a crash (mallopt(3), M_PERTURB).
        { timeout: 50_000, killSignal: "SIGABRT", env: { ...process.env, MALLOC_PERTURB_: "165" } },
        (_, stdout, stderr) =>
          resolve({
            code: child.exitCode,
            signal: child.signalCode,
            stderr,
            milliseconds: performance.now() - up,
            served: JSON.parse(stdout || "{}"),
          }),
      );
      child.stdout?.once("data", () => {
        up = performance.now();
      });
    });
  }

  async function nothingIsLeft({ served }: Outcome): Promise<void> {
    expect(served.children.length).toBeGreaterThan(0);
    await until(
      () =>
        !served.children.some(running) &&
        !existsSync(served.directory) &&
        !readdirSync("/dev/shm").some((name) => name.startsWith(served.prefix)),
      2_000,
    );
  }

  const ends: [how: string, code: number | null, signal: string | null][] = [
    ["normal", 0, null],
    ["exit", 7, null],
    ["throw", 1, null],
    ["reject", 1, null],
    ["SIGTERM", null, "SIGTERM"],
    ["SIGINT", null, "SIGINT"],
    ["SIGHUP", null, "SIGHUP"],
    ["SIGKILL", null, "SIGKILL"],
    ["stop", 0, null],
    ["stop after a failed reload", 0, null],
  ];

  for (const streaming of [false, true]) {
    it.each(ends)(
      `ends right and leaves nothing: %s, ${streaming ? "streaming 64" : "idle"}`,
      async (how, code, signal) => {
        const outcome = await run(how, streaming);
        expect(outcome).toMatchObject({ code, signal });
        expect(outcome.milliseconds).toBeLessThan(5_000);
        expect(outcome.stderr.includes("on purpose")).toBe(how === "throw" || how === "reject");
        await nothingIsLeft(outcome);
      },
    );

    it.each(["normal", "exit", "throw", "terminate", "stop"])(
      `ends right when the server was a worker's: %s, ${streaming ? "streaming 64" : "idle"}`,
      async (how) => {
        const outcome = await run(how, streaming, true);
        expect(outcome).toMatchObject({ code: 0, signal: null, stderr: "" });
        expect(outcome.milliseconds).toBeLessThan(5_000);
        await nothingIsLeft(outcome);
      },
    );
  }
});
