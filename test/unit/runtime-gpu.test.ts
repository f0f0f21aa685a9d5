import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { VllmModel } from "../../src/model";
import { doctor } from "../../src/runtime";
import { gpuFlaw, requireGpu } from "../../src/runtime/find/gpu";
import { fakeRuntime, temporary } from "./runtime-files";

afterEach(() => vi.unstubAllEnvs());

/** A root folder with these files in it. */
function machine(...files: string[]): string {
  const root = temporary();
  for (const file of files) {
    mkdirSync(dirname(join(root, file)), { recursive: true });
    writeFileSync(join(root, file), "");
  }
  return root;
}

const DRIVER = "proc/driver/nvidia/version";
const DEVICE = "dev/nvidiactl";
const LIBRARY = "usr/lib/x86_64-linux-gnu/libcuda.so.1";

describe("a GPU's driver", () => {
  it.each([
    ["no driver", [], /no NVIDIA driver/],
    ["no driver, though its library is there", [LIBRARY], /no NVIDIA driver/],
    ["a container without the device", [DRIVER, LIBRARY], /\/dev\/nvidiactl is not here/],
    ["a container without the library", [DRIVER, DEVICE], /libcuda\.so\.1 is not found/],
  ])("is missed: %s", (_, files, detail) => {
    const flaw = gpuFlaw({ root: machine(...files), environment: {} });
    expect(flaw?.detail).toMatch(detail);
    expect(flaw?.hint).toContain("--gpus all");
  });

  it("is found by its files, in the loader's cache, or where LD_LIBRARY_PATH says", () => {
    expect(gpuFlaw({ root: machine(DRIVER, DEVICE, LIBRARY), environment: {} })).toBeUndefined();
    const cached = machine(DRIVER, DEVICE, "etc/ld.so.cache");
    expect(gpuFlaw({ root: cached, environment: {} })).toBeDefined();
    writeFileSync(join(cached, "etc/ld.so.cache"), "libcuda.so.1\0/opt/libcuda.so.1\0");
    expect(gpuFlaw({ root: cached, environment: {} })).toBeUndefined();
    const named = machine("libcuda.so.1");
    expect(gpuFlaw({ root: machine(DEVICE), environment: { LD_LIBRARY_PATH: `/nowhere:${named}` } })).toBeUndefined();
    // WSL 2: Windows' driver, no device file of NVIDIA's own
    expect(gpuFlaw({ root: machine("dev/dxg", "usr/lib/libcuda.so.1"), environment: {} })).toBeUndefined();
    // a Jetson
    const jetson = machine("dev/nvhost-gpu", "usr/lib/aarch64-linux-gnu/libcuda.so.1");
    expect(gpuFlaw({ root: jetson, environment: {} })).toBeUndefined();
  });

  it("is asked of a CUDA runtime only", () => {
    const root = machine();
    expect(() => requireGpu({ device: "cpu", directory: "/r" }, { root })).not.toThrow();
    expect(() => requireGpu({ device: "cuda", directory: "/r" }, { root })).toThrow(/the runtime in \/r is for CUDA/);
  });
});

// On a machine with a GPU a load goes on from here, which needs more than a folder of empty files.
describe.runIf(gpuFlaw() !== undefined)("a CUDA runtime on a machine without a GPU", () => {
  it("is refused by load before anything is started", async () => {
    const directory = temporary();
    await fakeRuntime(directory, { device: "cuda" });
    vi.stubEnv("TMPDIR", temporary());
    const refused = VllmModel.load({ engine: { model: "x" }, runtime: directory });
    await expect(refused).rejects.toMatchObject({
      code: "ERR_GPU_MISSING",
      message: expect.stringContaining("is for CUDA, and no NVIDIA driver is loaded"),
      hint: expect.stringContaining("npx tritonode setup --device cpu"),
    });
    // neither a server's private folder nor Triton
    expect(readdirSync(tmpdir())).toEqual([]);
    const { sharedObjects } = process.report.getReport() as unknown as { sharedObjects: string[] };
    expect(sharedObjects.filter((path) => path.includes("libtritonserver"))).toEqual([]);
  });

  it("is named by doctor, ahead of what takes long", async () => {
    const directory = temporary();
    await fakeRuntime(directory, { device: "cuda" });
    const names: string[] = [];
    for await (const check of doctor({ directory })) {
      names.push(check.name);
      if (check.name !== "GPU") continue;
      expect(check).toMatchObject({ status: "fail", detail: "no NVIDIA driver is loaded" });
      break;
    }
    expect(names).toContain("GPU");
    expect(names).not.toContain("vLLM");
  });
});
