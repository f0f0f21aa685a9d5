import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../support/folders";
import { expectNothingLeft, Host, type Report, type Step } from "../support/host";
import { tinyEngine } from "../support/models";
import { adapter, fixtures, root } from "../support/paths";
import { chaosOnly, unless } from "../support/skip";

// Checked from outside, by what the kernel says of the process tree, never by reading our own code.

const load = {
  engine: { ...tinyEngine, max_loras: 4, max_lora_rank: 16 },
  loras: { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") },
};
const prompts = [undefined, "lora_a", "lora_b", "late"];
/** A whole life: load with warm-up, base and adapters, an adapter at run time, many streams, stop. */
const life: Step[] = [
  { do: "load" },
  { do: "loadAdapter", name: "late", path: adapter("lora_c") },
  ...prompts.map((lora) => ({ do: "generate", options: { lora } })),
  { do: "stream", count: 32, options: { max_tokens: 32, lora: "late" } },
  { do: "settled" },
  { do: "dispose" },
];

interface Seen {
  samples: number;
  processes: number;
  internet: string[];
  other: number;
}

/** Samples the tree below `pid` until the returned function is called. */
async function sample(pid: number): Promise<() => Promise<Seen>> {
  const sampler: ChildProcess = spawn(
    process.execPath,
    [join(root, "test/support/socket-sampler.cjs"), String(pid), "2"],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  let text = "";
  sampler.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  await once(sampler.stdout as NonNullable<typeof sampler.stdout>, "data");
  return async () => {
    sampler.kill("SIGTERM");
    await once(sampler, "close");
    return JSON.parse(text) as Seen;
  };
}

function texts(host: Host): unknown[] {
  const failed = host.reports.filter(({ error }) => error !== undefined);
  expect(failed).toEqual([]);
  return host.reports.filter(({ step }) => step === "generate").map((report: Report) => report["text"]);
}

// Root may make a network namespace as it is; others need a user namespace, which some kernels forbid.
const unshare = [
  ["unshare", "-n"],
  ["unshare", "-rn"],
].find(([command = "", ...args]) => spawnSync(command, [...args, "true"]).status === 0);
const traced = spawnSync("strace", ["-f", "--seccomp-bpf", "true"]).status === 0;
if (!traced) console.warn("no strace here: sockets are looked for by sampling alone");
const namespaces = unless(unshare === undefined, "this user may make no network namespace (unshare -n, unshare -rn)");

describe("no internet socket", () => {
  let normal: unknown[] = [];

  test("from start to exit, in the whole process tree", async () => {
    const calls = join(temporaryFolder(), "calls");
    // A sampler can miss what is open for a moment; strace can't.
    const wrapper = traced
      ? ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=socket,socketpair,bind,connect,listen", "-o", calls]
      : [];
    // The first load on a machine, which finds nothing that vLLM keeps for later ones.
    const env = { ...process.env, VLLM_CACHE_ROOT: temporaryFolder() };
    const host = new Host(load, life, { wrapper, env, timeout: 150_000 });
    const seen = sample(host.process.pid as number);
    await host.ended;
    const { samples, processes, internet } = await (await seen)();
    expect(internet).toEqual([]);
    // The host, its reaper, the stub that completes the configuration, and the model's.
    expect(processes).toBeGreaterThanOrEqual(4);
    expect(samples).toBeGreaterThan(200);
    if (traced) {
      const made = readFileSync(calls, "utf8")
        .split("\n")
        .filter((line) => /\b(?:socket|socketpair|bind|connect|listen)\(/.test(line));
      // What is left is of the unix family (docs/reference/security.md).
      expect(made.filter((line) => !line.includes("AF_UNIX"))).toEqual([]);
      expect(made.length).toBeGreaterThan(0);
    }
    normal = texts(host);
    expect(normal).toHaveLength(4);
    expect(new Set(normal).size).toBeGreaterThan(1);
  }, 160_000);

  test("the sampler sees a socket where there is one", async () => {
    const script = 'require("net").createServer().listen(0, "127.0.0.1", () => setTimeout(() => process.exit(), 1000))';
    const listener = spawn(process.execPath, ["-e", script]);
    const stop = await sample(listener.pid as number);
    await once(listener, "close");
    expect((await stop()).internet.length).toBeGreaterThan(0);
  });

  test("in a network namespace without an interface the same texts come", {
    ...namespaces,
    timeout: 120_000,
  }, async () => {
    const host = new Host(load, life, { wrapper: unshare ?? [] });
    expect(await host.ended).toEqual({ code: 0, signal: null });
    expect(texts(host)).toEqual(normal);
  });
});

describe("several ranks (npm run chaos)", chaosOnly, () => {
  test("tensor_parallel_size 2: loopback and nothing else", async () => {
    const host = new Host(
      {
        engine: {
          ...tinyEngine,
          model: fixtures.models.tiny_tp,
          tensor_parallel_size: 2,
          kv_cache_memory_bytes: 64 << 20,
        },
        loras: { lora_a: fixtures.adaptersTp["lora_a"] as string, lora_b: fixtures.adaptersTp["lora_b"] as string },
      },
      [
        { do: "load" },
        ...[undefined, "lora_a", "lora_b", undefined].map((lora) => ({ do: "generate", options: { lora } })),
        { do: "dispose" },
      ],
      { timeout: 280_000 },
    );
    const seen = sample(host.process.pid as number);
    await host.ended;
    const { internet } = await (await seen)();
    await expectNothingLeft(host.reports[0] as Report, 2_000);
    const [base, a, b, again] = texts(host);
    expect(again).toBe(base);
    expect(new Set([base, a, b]).size).toBe(3);
    expect(internet.length).toBeGreaterThan(0);
    // Addresses as the kernel prints them: 0100007F is 127.0.0.1, the long one ::1 (proc(5)).
    const loopback = /^(0100007F|0000000000000000FFFF00000100007F|00000000000000000000000001000000):/;
    const strangers = internet.filter((line) => !loopback.test(line.split(" ")[2] ?? ""));
    console.log(`tensor parallel: ${internet.length} loopback sockets seen, e.g. ${internet[0]}`);
    expect(strangers).toEqual([]);
  }, 300_000);

  test("an address that is not loopback is refused", async () => {
    const host = new Host(
      {
        engine: { ...tinyEngine, model: fixtures.models.tiny_tp, tensor_parallel_size: 2 },
        environment: { VLLM_HOST_IP: "0.0.0.0" },
      },
      [{ do: "load" }],
    );
    await host.ended;
    expect(host.reports[0]?.error).toMatchObject({ code: "ERR_MODEL_LOAD" });
    expect(host.reports[0]?.error?.message).toContain("VLLM_HOST_IP");
  }, 120_000);
});
