import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { expectNothingLeft, Host, isRunning, sharedMemoryOf } from "../support/host";
import { tinyEngine } from "../support/models";
import { fixtures } from "../support/paths";
import { chaosOnly } from "../support/skip";
import { processTree } from "../support/sockets";
import { until } from "../support/triton";

// A host with a real engine ends while it streams. Every way of ending with a model of Triton's own is in
// test/unit/server-exit.test.ts; the long list here runs by `npm run chaos`.

const load = { engine: { ...tinyEngine, max_model_len: 512, kv_cache_memory_bytes: 64 << 20 } };
const chaos = chaosOnly.skip === undefined;

const ends: [how: string, step: { do: string; name?: string }, code: number | null, signal: string | null][] = [
  ["SIGKILL", { do: "signal", name: "SIGKILL" }, null, "SIGKILL"],
  ...((chaos
    ? [
        ["SIGTERM", { do: "signal", name: "SIGTERM" }, null, "SIGTERM"],
        ["SIGINT", { do: "signal", name: "SIGINT" }, null, "SIGINT"],
        ["SIGHUP", { do: "signal", name: "SIGHUP" }, null, "SIGHUP"],
        ["process.exit", { do: "exit" }, 7, null],
        ["an uncaught exception", { do: "throw" }, 1, null],
        ["an unhandled rejection", { do: "reject" }, 1, null],
      ]
    : []) as typeof ends),
];

describe("a host that ends while it streams 64 requests", () => {
  test.each(ends)(
    "%s: nothing is left within 2 s",
    async (_, step, code, signal) => {
      const host = new Host(load, [{ do: "load" }, { do: "stream", count: 64 }, step]);
      const loaded = await host.report("load");
      expect(loaded.error).toBeUndefined();
      await host.report("stream");
      const began = performance.now();
      expect(await host.ended).toEqual({ code, signal });
      expect(performance.now() - began).toBeLessThan(5_000);
      await expectNothingLeft(loaded, 2_000);
    },
    120_000,
  );

  test("SIGKILL with two ranks: nothing is left within 2 s", { ...chaosOnly, timeout: 240_000 }, async () => {
    const engine = { ...load.engine, model: fixtures.models.tiny_tp, tensor_parallel_size: 2 };
    const host = new Host({ engine }, [{ do: "load" }, { do: "stream", count: 16 }, { do: "wait" }]);
    const loaded = await host.report("load");
    expect(loaded.error).toBeUndefined();
    await host.report("stream");
    // Under the host's own prefix, by which the reaper finds it.
    const during = sharedMemoryOf(host.process.pid as number);
    expect(during.filter((name) => !name.includes(loaded.prefix as string))).toEqual([]);
    expect(during.some((name) => name.includes("ranks"))).toBe(true);
    host.process.kill("SIGKILL");
    await host.ended;
    await expectNothingLeft(loaded, 2_000);
  });

  test("killed while it loads: the loading child is gone within 2 s", async () => {
    const host = new Host(load, [{ do: "load" }]);
    const pid = host.process.pid as number;
    const stubs = () =>
      processTree(pid).filter((each) => {
        try {
          return readFileSync(`/proc/${each}/cmdline`, "utf8").includes("vllm_model_0_0");
        } catch {
          return false;
        }
      });
    await until(() => stubs().length > 0, 60_000);
    // In the middle of the imports.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    const [child] = stubs();
    process.kill(pid, "SIGKILL");
    await host.ended;
    await until(() => child !== undefined && !isRunning(child), 2_000);
    await until(() => !readdirSync("/dev/shm").some((name) => name.startsWith(`tritonode_${pid}_`)), 2_000);
  }, 120_000);

  test("killed while native code of the load keeps Python's lock: the child is gone within 2 s", async () => {
    // As in a library that computes, or waits for a compiler: the child's own watch of its host can't run meanwhile.
    const repository = mkdtempSync(join(tmpdir(), "tritonode-stuck-"));
    const folder = join(repository, "stuck", "1");
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(repository, "stuck", "config.pbtxt"), 'backend: "vllm"\n');
    writeFileSync(
      join(folder, "model.json"),
      JSON.stringify({ ...load.engine, logits_processors: ["stuck_module:Stuck"] }),
    );
    const reached = join(folder, "reached");
    writeFileSync(
      join(folder, "stuck_module.py"),
      `import ctypes, os\nwith open(${JSON.stringify(reached)}, "w") as file:\n    file.write(str(os.getpid()))\n` +
        // PyDLL, unlike CDLL, does not release the lock.
        "ctypes.PyDLL(None).sleep(600)\n",
    );
    try {
      const host = new Host({ modelRepository: repository }, [{ do: "load" }]);
      await until(() => existsSync(reached) && readFileSync(reached, "utf8") !== "", 60_000);
      const child = Number(readFileSync(reached, "utf8"));
      expect(isRunning(child)).toBe(true);
      host.process.kill("SIGKILL");
      await host.ended;
      await until(() => !isRunning(child), 2_000);
    } finally {
      rmSync(repository, { recursive: true, force: true });
    }
  }, 120_000);
});
