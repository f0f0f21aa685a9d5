import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { findRuntime, planSetup } from "../../src/runtime";
import { stubPythonVersion, systemTriton, tritonOfDirectory } from "../../src/runtime/find/triton";
import { fakePython, fakeRuntime, script, temporary } from "./runtime-files";

beforeEach(() => vi.stubEnv("TRITONODE_INSTALLER", "pip"));
afterEach(() => vi.unstubAllEnvs());

/** The layout of NVIDIA's container, of empty files. */
function container(version: string | undefined, python = "3.11"): string {
  const root = join(temporary(), "tritonserver");
  for (const folder of ["bin", "lib", "backends/python", "backends/vllm"])
    mkdirSync(join(root, folder), { recursive: true });
  if (version !== undefined) writeFileSync(join(root, "TRITON_VERSION"), `${version}\n`);
  for (const file of ["lib/libtritonserver.so", "backends/python/libtriton_python.so", "backends/vllm/model.py"]) {
    writeFileSync(join(root, file), "");
  }
  script(join(root, "backends/python/triton_python_backend_stub"), `# libpython${python}.so.1.0\nexit 1`);
  script(join(root, "bin/tritonserver"), "exit 0");
  return root;
}

describe("the Triton of NVIDIA's container", () => {
  it.each(["2.51.0", "2.63.0", "2.70.1", "3.0.0", undefined])("%s is taken as it lies there", (version) => {
    const root = container(version);
    const files = tritonOfDirectory(root);
    expect(files).toMatchObject({
      version: version ?? "unknown",
      library: join(root, "lib/libtritonserver.so"),
      dependencyDirectory: undefined,
      server: join(root, "bin/tritonserver"),
    });
    expect(stubPythonVersion(files.stub)).toBe("3.11");
  });

  it.each(["2.50.0", "2.9.0", "1.14.0"])("%s is too old", (version) => {
    expect(() => tritonOfDirectory(container(version))).toThrow(
      expect.objectContaining({
        code: "ERR_RUNTIME_BROKEN",
        message: expect.stringContaining(`is ${version}, and 2.51 (24.10) is the oldest`),
      }),
    );
  });

  it.each([
    "lib/libtritonserver.so",
    "backends/python/libtriton_python.so",
    "backends/python/triton_python_backend_stub",
  ])("is of no use without %s", (part) => {
    const root = container("2.63.0");
    rmSync(join(root, part));
    expect(() => tritonOfDirectory(root)).toThrow(part);
    expect(systemTriton({ PATH: join(root, "bin") })).not.toBe(root);
  });

  it("is found by the tritonserver on PATH, through links", () => {
    const root = container("2.63.0");
    const bin = temporary();
    symlinkSync(join(root, "bin/tritonserver"), join(bin, "tritonserver"));
    expect(systemTriton({ PATH: `/nowhere:${bin}` })).toBe(root);
  });

  it("is what a new runtime is planned with, unless another or none is named", async () => {
    const root = container("2.63.0");
    vi.stubEnv("PATH", `${join(root, "bin")}:${process.env["PATH"]}`);
    const options = { device: "cpu", python: fakePython(temporary(), "python3") } as const;
    const plan = await planSetup({ ...options, directory: temporary() });
    expect(plan.triton).toBe(root);
    expect(plan.packages.some((pin) => pin.startsWith("nvidia-pytriton"))).toBe(false);
    const none = await planSetup({ ...options, directory: temporary(), triton: "none" });
    expect(none.triton).toBeUndefined();
    expect(none.packages.some((pin) => pin.startsWith("nvidia-pytriton"))).toBe(true);
    const other = container("2.51.0");
    expect((await planSetup({ ...options, directory: temporary(), triton: other })).triton).toBe(other);
  });

  it("asks for a Python that its stub is built for", async () => {
    const root = container("2.63.0", "3.12");
    vi.stubEnv("PATH", `${join(root, "bin")}:${process.env["PATH"]}`);
    const python = fakePython(temporary(), "python3");
    await expect(planSetup({ device: "cpu", python, directory: temporary() })).rejects.toMatchObject({
      code: "ERR_PYTHON_NOT_FOUND",
      message: expect.stringContaining("not 3.12"),
    });
  });

  it("does not take the place of the one that a runtime was made with", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    vi.stubEnv("PATH", `${join(container("2.63.0"), "bin")}:${process.env["PATH"]}`);
    expect((await planSetup({ directory, device: "cpu" })).action).toBe("none");
    expect((await planSetup({ directory, device: "cpu", triton: "none" })).action).toBe("none");
  });

  it("is refused for a runtime of another Python", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    const triton = container("2.63.0", "3.12");
    await expect(findRuntime({ directory, triton })).rejects.toMatchObject({
      code: "ERR_RUNTIME_BROKEN",
      message: expect.stringContaining("is for Python 3.12, and the runtime"),
    });
  });
});
