import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Check, doctor, findRuntime, type Runtime, setup } from "../../src/runtime";
import type { Manifest } from "../../src/runtime/find/manifest";
import { packageName } from "../../src/runtime/install/progress";
import { importCheck, stubFlaw } from "../../src/runtime/install/verify";
import { basePins, EXTRAS, TORCH } from "../../src/runtime/packages/requirements";

// Needs the runtime that `npm test` sets up. Without one these tests fail, with the command that makes it.
let runtime: Runtime;
beforeAll(async () => {
  runtime = await findRuntime();
});

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

/** A runtime folder of its own that borrows the real one's venv, with another manifest. */
async function borrowed(change: (manifest: Manifest) => void): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), "runtime-borrowed-"));
  folders.push(folder);
  symlinkSync(join(runtime.directory, "venv"), join(folder, "venv"));
  const manifest = JSON.parse(readFileSync(join(runtime.directory, "manifest.json"), "utf8"));
  change(manifest);
  writeFileSync(join(folder, "manifest.json"), JSON.stringify(manifest));
  return folder;
}

async function examined(options: Parameters<typeof doctor>[0]): Promise<Map<string, Check>> {
  const checks = new Map<string, Check>();
  for await (const check of doctor(options)) checks.set(check.name, check);
  return checks;
}

describe("the runtime", () => {
  it("passes every check of doctor", async () => {
    const checks = await examined({ directory: runtime.directory });
    expect([...checks.values()].filter((check) => check.status === "fail")).toEqual([]);
    expect([...checks.keys()]).toEqual(
      expect.arrayContaining(["addon", "/dev/shm", "bash", "libpython", "Triton's stub", "numpy", "vLLM", "GPU"]),
    );
  });

  it("starts its stub, and imports vLLM in the C locale with the tested numpy", async () => {
    expect(await stubFlaw(runtime)).toBeUndefined();
    expect(await importCheck(runtime)).toMatchObject({ vllm: "0.32.0", numpy: "1.26.4" });
  });

  it("has a `test` extra that needs no other", () => {
    const pins = [TORCH.cpu, ...basePins("cpu", false), ...EXTRAS.test];
    const program = [
      "import importlib.metadata, json, re, sys",
      "from pip._vendor.packaging.requirements import Requirement",
      "present = set(json.loads(sys.argv[2]))",
      "for name in json.loads(sys.argv[1]):",
      "    for each in map(Requirement, importlib.metadata.requires(name) or ()):",
      '        if re.sub("[-_.]+", "-", each.name.lower()) not in present and (each.marker is None or each.marker.evaluate({"extra": ""})):',
      "            print(name, each)",
    ].join("\n");
    const names = [EXTRAS.test, [...pins, "pip"]].map((list) => JSON.stringify(list.map(packageName)));
    const { stdout, stderr } = spawnSync(runtime.python, ["-I", "-c", program, ...names], { encoding: "utf8" });
    expect(stdout + stderr).toBe("");
  });

  it("is set up again in less than a second when nothing is to do", async () => {
    const started = performance.now();
    const again = await setup({ directory: runtime.directory, device: runtime.device });
    expect(performance.now() - started).toBeLessThan(1_000);
    expect(again).toEqual(runtime);
  });

  it("is found within milliseconds", async () => {
    const started = performance.now();
    for (let i = 0; i < 20; i++) await findRuntime({ directory: runtime.directory });
    expect((performance.now() - started) / 20).toBeLessThan(10);
  });
});

describe("doctor on a damaged runtime", () => {
  it("sees a stub for another Python", async () => {
    const directory = await borrowed((manifest) => {
      manifest.triton = { ...manifest.triton, stub: "stub" };
    });
    // The real one, but for the version of its libpython (a small runtime has the stub of its own Python alone).
    const program = readFileSync(runtime.triton.stub, "latin1").replaceAll(/libpython3\.\d\d\.so/g, "libpython3.10.so");
    writeFileSync(join(directory, "stub"), program, { encoding: "latin1", mode: 0o755 });
    const checks = await examined({ directory });
    expect(checks.get("Triton's stub")).toMatchObject({ status: "fail", detail: expect.stringContaining("3.10") });
    // and it would not have started either: this is what keeps a load from hanging
    expect(await stubFlaw(await findRuntime({ directory }))).toMatch(/libpython3\.10|exit code|SIG/);
  });

  it("sees that libpython is gone", async () => {
    const directory = await borrowed((manifest) => {
      manifest.python.libpythonDirectory = "/nowhere";
    });
    await expect(findRuntime({ directory })).rejects.toMatchObject({ code: "ERR_RUNTIME_BROKEN" });
    const checks = await examined({ directory });
    expect(checks.get("runtime")).toMatchObject({ status: "fail", fix: expect.stringContaining("tritonode setup") });
  });
});

describe("the program", () => {
  const program = join(__dirname, "../../dist/cli/main.js");
  const tritonode = (...words: string[]) => spawnSync(process.execPath, [program, ...words], { encoding: "utf8" });

  it("finds the runtime complete", () => {
    const { status, stdout } = tritonode("setup", "--device", runtime.device, "--dir", runtime.directory);
    expect(stdout).toContain(`ready: ${runtime.directory}`);
    expect(status).toBe(0);
  });

  it("says what is missing and exits with 1", () => {
    const { status, stderr } = tritonode("setup", "--dir", "/proc/nowhere");
    expect(stderr).toContain("/proc/nowhere can't be made: ENOENT");
    expect(status).toBe(1);
    expect(tritonode("--version").status).toBe(0);
    expect(tritonode("nonsense").status).toBe(2);
  });
});
