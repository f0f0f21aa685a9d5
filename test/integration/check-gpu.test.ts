import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { temporaryFolder } from "../support/folders";
import { isRunning } from "../support/host";
import { root } from "../support/paths";
import { processTree } from "../support/sockets";
import { until } from "../support/triton";

// `npm run check:gpu` without a GPU: each of its steps on the tiny model.

const running: ChildProcess[] = [];
afterEach(() => {
  for (const child of running.splice(0)) child.kill("SIGKILL");
});

interface Record {
  machine: { gpu: null; vllm: string; small: boolean };
  steps: { [name: string]: { status: string; reason?: string; [figure: string]: unknown } };
}

function start(
  out: string,
  ...words: string[]
): { child: ChildProcess; ended: Promise<number | null>; text: () => string } {
  const args = [join(root, "scripts/check-gpu.mjs"), "--device", "cpu", "--small", "--out", out, ...words];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
  running.push(child);
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream?.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
  }
  return { child, ended: new Promise((resolve) => child.once("close", resolve)), text: () => text };
}

const recordIn = (folder: string) => JSON.parse(readFileSync(join(folder, "gpu-results.json"), "utf8")) as Record;

describe("check:gpu", () => {
  it("passes every step, and puts them on the page", async () => {
    const folder = temporaryFolder();
    const { ended, text } = start(folder);
    const code = await ended;
    const { machine, steps } = recordIn(folder);
    const failed = Object.entries(steps).filter(([, { status }]) => status !== "passed");
    expect(failed, text()).toEqual([]);
    expect(code).toBe(0);
    expect(machine).toMatchObject({ gpu: null, small: true });
    expect(steps["exact-float32"]).toMatchObject({ texts: 12, equalTexts: 12, differences: [] });
    expect(steps["streams"]).toMatchObject({ streams: 64, tokens: 1024, sockets: [] });
    expect(steps["release-child"]).toMatchObject({ code: "ERR_ENGINE_DIED" });
    for (const name of ["engine-thread", "engine-process", "engine-server"]) {
      const { workloads } = steps[name] as unknown as { workloads: { [name: string]: { tokensPerSecond: number } } };
      expect(Object.values(workloads).map(({ tokensPerSecond }) => tokensPerSecond > 0)).toEqual(Array(5).fill(true));
    }
    const page = readFileSync(join(folder, "gpu.md"), "utf8");
    expect(page).toContain("Not run on a GPU yet.");
    expect(page.match(/\| passes \|/g)).toHaveLength(12);
  }, 1_600_000);

  it("keeps what it has when it is killed, and adds to it", async () => {
    const folder = temporaryFolder();
    const first = start(folder, "--only", "doctor,load-eager");
    await until(() => existsSync(join(folder, "gpu-results.json")), 300_000);
    first.child.kill("SIGKILL");
    await first.ended;
    expect(Object.keys(recordIn(folder).steps)).toEqual(["doctor"]);
    const second = start(folder, "--only", "load-graphs", "--minutes", "0.01");
    expect(await second.ended).toBe(1);
    expect(recordIn(folder).steps).toMatchObject({
      doctor: { status: "passed" },
      "load-graphs": { status: "skipped", reason: "no time left of 0.01 minutes" },
    });
  }, 600_000);

  it("ends its step when it is killed, so that the next run has the machine for itself", async () => {
    const { child, ended, text } = start(temporaryFolder(), "--only", "doctor");
    const below = () => processTree(child.pid).slice(1);
    // The step, and a Python that it starts.
    await until(() => text().includes("doctor: ") && below().length > 1, 300_000);
    const pids = below();
    child.kill("SIGKILL");
    await ended;
    await expect.poll(() => pids.filter(isRunning), { timeout: 20_000 }).toEqual([]);
  }, 600_000);

  it("resumes: what has passed is not run again", async () => {
    const folder = temporaryFolder();
    expect(await start(folder, "--only", "doctor").ended).toBe(0);
    const before = recordIn(folder).steps["doctor"];
    const again = start(folder, "--only", "doctor,load-eager", "--resume", "--minutes", "0.01");
    expect(await again.ended).toBe(1);
    expect(recordIn(folder).steps["doctor"]).toEqual(before);
    expect(recordIn(folder).steps["load-eager"]).toMatchObject({ status: "skipped" });
  }, 300_000);

  it("ends a step that takes too long", async () => {
    const folder = temporaryFolder();
    const { ended } = start(folder, "--only", "engine-process", "--minutes", "0.1");
    expect(await ended).toBe(1);
    expect(recordIn(folder).steps["engine-process"]).toMatchObject({
      status: "timed out",
      reason: expect.stringMatching(/not done after [56] s/),
    });
  }, 180_000);

  it("says what it does not know", async () => {
    const { ended, text } = start(temporaryFolder(), "--only", "speed");
    expect(await ended).toBe(1);
    expect(text()).toContain("--only speed: there are doctor, load-eager");
  });
});

describe("the memory of a GPU", () => {
  const path = process.env["PATH"];
  afterEach(() => {
    process.env["PATH"] = path;
  });

  it.each([
    [
      "from an nvidia-smi that goes on",
      'case "$*" in *loop*) for _ in $(seq 100); do echo 4567; sleep 0.05; done ;; *) echo 123 ;; esac',
      4567,
    ],
    ["from one that does not loop", 'case "$*" in *loop*) exit 1 ;; *) echo 123 ;; esac', 123],
  ])("is read %s", async (_, body, expected) => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "nvidia-smi"), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
    process.env["PATH"] = `${folder}:${path}`;
    const { watchMemory } = await import(join(root, "scripts/check-gpu/processes.mjs"));
    const read = await watchMemory("cuda");
    await expect.poll(() => read([])).toBe(expected);
  });

  it("is missed where the driver does not tell it", async () => {
    const folder = temporaryFolder();
    writeFileSync(join(folder, "nvidia-smi"), "#!/bin/sh\necho '[N/A]'\n", { mode: 0o755 });
    process.env["PATH"] = `${folder}:${path}`;
    const { watchMemory } = await import(join(root, "scripts/check-gpu/processes.mjs"));
    await expect(watchMemory("cuda")).rejects.toThrow("nvidia-smi gives no memory in use: [N/A]");
  });
});

it("docs/benchmarks/gpu.md says what docs/benchmarks/gpu-results.json holds", async () => {
  const { results } = (await import(join(root, "scripts/check-gpu/page.mjs"))) as { results(content?: Record): string };
  const file = join(root, "docs/benchmarks/gpu-results.json");
  const content = existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as Record) : undefined;
  const [, shown] = readFileSync(join(root, "docs/benchmarks/gpu.md"), "utf8").split(/<!-- results: (?:begin|end) -->/);
  expect(shown?.trim()).toBe(results(content).trim());
});
