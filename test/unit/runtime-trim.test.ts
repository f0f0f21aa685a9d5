import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, linkSync, mkdirSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { removeBuilds, trim, trimLibrary } from "../../src/runtime/install/trim";
import { KERNEL_BUILDS, LEFT_OUT_PACKAGES, leftOut } from "../../src/runtime/packages/left-out";
import { basePins, EXTRAS, extraPins } from "../../src/runtime/packages/requirements";
import { temporary } from "./runtime-files";

function file(path: string, content = ""): void {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, content);
}

describe("a library", () => {
  it("loses what debuggers read and still runs; another link to it keeps all", async () => {
    const folder = temporary();
    // A large ELF file with a symbol table that is certain to be here, and that shows whether it still loads.
    const [node, cached] = [join(folder, "node.so"), join(folder, "cached")];
    copyFileSync(process.execPath, node);
    linkSync(node, cached);
    const { size } = statSync(cached);
    const saved = await trimLibrary(node);
    expect(saved).toBeGreaterThan(1_000_000);
    expect(statSync(node).size).toBe(size - saved);
    expect(statSync(cached).size).toBe(size);
    expect(execFileSync(node, ["-p", "6 * 7"], { encoding: "utf8" })).toBe("42\n");
    expect(await trimLibrary(node)).toBe(0);
    expect(readdirSync(folder).sort()).toEqual(["cached", "node.so"]);
  });

  it("stays as it is when it is something else", async () => {
    const path = join(temporary(), "lib.so");
    for (const content of ["INPUT(-lc)", "x".repeat(2_000_000)]) {
      file(path, content);
      expect(await trimLibrary(path)).toBe(0);
      expect(statSync(path).size).toBe(content.length);
    }
  });
});

it("what no load needs is removed, and nothing else", async () => {
  const site = temporary();
  const stays = [
    "numpy/core/__init__.py",
    "torch/bin/torch_shm_manager",
    "torch/testing/__init__.py",
    "pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub",
    "nvidia_pytriton.libs/libtritonserver-1.so",
    "tests/__init__.py",
  ];
  const goes = [
    "numpy/core/tests/test_a.py",
    "torch/bin/test_api",
    "torch/test/test_a.h",
    "pytriton/tritonserver/python_backend_stubs/3.13/triton_python_backend_stub",
    "nvidia_pytriton.libs/libpython3-1.13.so.1.0",
  ];
  for (const path of [...stays, ...goes]) file(join(site, path));
  await trim(site, "3.11");
  expect([...stays, ...goes].filter((path) => existsSync(join(site, path)))).toEqual(stays);
});

it("of vLLM's kernels the builds for other processors go, where the one in use is known", async () => {
  const site = temporary();
  for (const name of KERNEL_BUILDS) file(join(site, "vllm", `${name}.abi3.so`));
  file(join(site, "vllm", "spinloop.abi3.so"));
  expect(await removeBuilds(site, undefined)).toEqual([]);
  expect(await removeBuilds(site, "_C_AVX2")).toEqual(["_C", "_C_AVX512"]);
  expect(readdirSync(join(site, "vllm")).sort()).toEqual(["_C_AVX2.abi3.so", "spinloop.abi3.so"]);
});

describe("the packages that are left out", () => {
  const nameOf = (pin: string) => pin.split("=")[0] ?? "";

  it("are all pinned, and come back with their extra", () => {
    const [small, full] = [basePins("cpu", false), basePins("cpu", true)];
    const absent = full.filter((pin) => !small.includes(pin));
    expect(absent.map(nameOf).sort()).toEqual(LEFT_OUT_PACKAGES.map(({ name }) => name).sort());
    expect([...EXTRAS.full].sort()).toEqual([...absent].sort());
    expect(EXTRAS.vision.map(nameOf)).toEqual(["opencv-python-headless"]);
  });

  it("are none on CUDA", () => {
    expect(basePins("cuda", false)).toEqual(basePins("cuda", true));
    expect(extraPins("full", "cuda")).toEqual([]);
    expect(leftOut("cuda", [])).toBeUndefined();
  });

  it("are named with their modules", () => {
    expect(leftOut("cpu", [])?.modules).toMatchObject({ triton: "full", cv2: "vision" });
    expect(leftOut("cpu", ["vision"])?.modules).not.toHaveProperty("cv2");
    expect(leftOut("cpu", ["full"])).toBeUndefined();
  });
});
