import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readlinkSync, rmdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { VllmModelOptions } from "../../src";
import { findRuntime } from "../../src/runtime";
import { temporaryFolder } from "../support/folders";
import { expectNothingLeft, Host, type HostOptions, type Report } from "../support/host";
import { tinyEngine } from "../support/models";
import { chaosOnly, unless } from "../support/skip";

// A host that runs out of something says so, and nothing hangs. Mounts are made in a mount namespace of the host's own.

const load: VllmModelOptions = { engine: { ...tinyEngine, max_model_len: 256, kv_cache_memory_bytes: 32 << 20 } };
const use = [
  { do: "load" },
  { do: "stream", count: 16, options: { max_tokens: 64 } },
  { do: "settled" },
  { do: "dispose" },
];
const mayMount = spawnSync("unshare", ["-m", "true"]).status === 0;
const mounts = unless(!mayMount, "this user may make no mount namespace (unshare -m)");

function shell(script: string): string[] {
  return ["sh", "-c", `${script}\nexec "$@"`, "sh"];
}

function mounted(folder: string, size: string): string[] {
  return ["unshare", "-m", ...shell(`mount -t tmpfs -o size=${size} tmpfs '${folder}'`)];
}

/** Runs a host whose load must fail; resolves with its error and how long it took, milliseconds. */
async function failure(options: HostOptions, with_: VllmModelOptions = load) {
  const host = new Host(with_, use, options);
  const began = performance.now();
  const { code } = await host.ended;
  expect(code, host.stderr).toBe(3);
  const { error } = host.reports[0] as Report;
  if (error === undefined) throw new Error(`the load should have failed: ${JSON.stringify(host.reports)}`);
  return { ...error, took: performance.now() - began };
}

async function success(options: HostOptions): Promise<void> {
  const host = new Host(load, use, options);
  expect(await host.ended).toEqual({ code: 0, signal: null });
  expect(host.reports.filter(({ error }) => error !== undefined)).toEqual([]);
  expect(host.reports.find(({ step }) => step === "settled")?.["results"]).toEqual(Array(16).fill(null));
}

describe("too little of something", () => {
  test("/dev/shm of 512 KiB: the load says so", mounts, async () => {
    const error = await failure({ wrapper: mounted("/dev/shm", "512k") });
    expect(error).toMatchObject({ class: "ModelLoadError", code: "ERR_MODEL_LOAD" });
    expect(error.message).toContain("shared memory");
    expect(error.took).toBeLessThan(10_000);
  });

  test("a full disk for temporary files: the load says so", mounts, async () => {
    const folder = temporaryFolder("tritonode-disk-");
    const error = await failure({ wrapper: mounted(folder, "200k"), env: { ...process.env, TMPDIR: folder } });
    expect(error).toMatchObject({ class: "TritonodeError", code: "ERR_SYSTEM" });
    expect(error.message).toContain("ENOSPC");
    expect(error.hint).toContain("TMPDIR");
  });

  test("no file descriptors left: the load says so", async () => {
    const error = await failure({ wrapper: shell("ulimit -n 20") });
    expect(error.code).toBe("ERR_SYSTEM");
    expect(error.message).toMatch(/Too many open files|EMFILE/);
  });

  test("/dev/shm of 64 MB, as in a container: serves", { ...mounts, ...chaosOnly }, async () => {
    await success({ wrapper: mounted("/dev/shm", "64m") });
  });

  test("40 file descriptors: serves", chaosOnly, async () => {
    await success({ wrapper: shell("ulimit -n 40") });
  });

  const group = "/sys/fs/cgroup/memory/tritonode-test";
  test(
    "a memory limit that vLLM does not fit in: the child is killed, the load says so",
    chaosOnly,
    async ({ skip }) => {
      try {
        mkdirSync(group);
        writeFileSync(join(group, "memory.limit_in_bytes"), String(400 << 20));
      } catch (error) {
        skip(`no memory control group can be made here: ${(error as Error).message}`);
      }
      try {
        const error = await failure({ wrapper: shell(`echo $$ >${group}/cgroup.procs`) });
        expect(error.code).toBe("ERR_STUB_START");
      } finally {
        rmdirSync(group);
      }
    },
  );
});

describe("a stub that can't start: an error within 10 s", () => {
  test("libpython is broken", async () => {
    const runtime = await findRuntime();
    const libpythonDirectory = temporaryFolder("tritonode-libpython-");
    writeFileSync(join(libpythonDirectory, `libpython${runtime.pythonVersion}.so.1.0`), "no library");
    const error = await failure({}, { ...load, runtime: { ...runtime, libpythonDirectory } });
    expect(error).toMatchObject({ code: "ERR_STUB_START" });
    expect(error.hint).toContain("doctor");
    expect(error.took).toBeLessThan(10_000);
  });

  test("the stub is no program", async () => {
    const runtime = await findRuntime();
    const error = await failure(
      {},
      { ...load, runtime: { ...runtime, triton: { ...runtime.triton, stub: "/etc/hostname" } } },
    );
    expect(error).toMatchObject({ code: "ERR_STUB_START" });
    expect(error.took).toBeLessThan(10_000);
  });
});

test("/tmp is cleaned under a host that serves: it goes on, and ends in good order", async () => {
  const steps = [{ do: "load" }, { do: "sleep", milliseconds: 1500 }, { do: "generate" }, { do: "dispose" }];
  const host = new Host(load, steps);
  const loaded = await host.report("load");
  const directory = loaded.directory as string;
  const made = readdirSync(directory)
    .filter((name) => name.startsWith("python_env_"))
    .map((name) => readlinkSync(join(directory, name)));
  expect(made).not.toEqual([]);
  for (const folder of made) rmSync(folder, { recursive: true });
  expect(await host.ended, host.stderr).toEqual({ code: 0, signal: null });
  expect(host.reports.filter(({ error }) => error !== undefined)).toEqual([]);
  expect(made.filter((folder) => existsSync(folder))).toEqual([]);
  await expectNothingLeft(loaded, 2_000);
});
