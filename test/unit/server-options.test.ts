import { describe, expect, it } from "vitest";
import {
  type ResolvedServerOptions,
  resolveOptions,
  type TritonServerOptions,
  toNativeOptions,
} from "../../src/server/options";
import type { Workspace } from "../../src/transport/workspace";

const triton = {
  version: "0",
  library: "/t/libtritonserver.so",
  dependencyDirectory: undefined,
  pythonBackend: "/t/python",
};
const workspace = { directory: "/w", shmPrefix: "/w_", backends: "/w/backends", ownRepository: "/w/models" };

function native(device: "cpu" | "cuda", options: Partial<TritonServerOptions> = {}) {
  const runtime = { directory: "/r", device, triton: { ...triton, stub: "/t/stub", server: undefined } };
  return toNativeOptions({ runtime, ...options } as ResolvedServerOptions, workspace as unknown as Workspace);
}

describe("memory for a GPU", () => {
  it.each(["cpu", "cuda"] as const)("makes no CUDA context in this process by itself (device %s)", (device) => {
    const { pinnedMemoryPoolBytes, cudaMemoryPoolBytes } = native(device);
    expect(pinnedMemoryPoolBytes).toBe(0);
    // Triton makes a pool on each GPU that has no entry of its own.
    expect(cudaMemoryPoolBytes.length).toBeGreaterThanOrEqual(64);
    expect(new Set(cudaMemoryPoolBytes)).toEqual(new Set([0]));
  });

  it("has the pools that are asked for, and no others", () => {
    const { pinnedMemoryPoolBytes, cudaMemoryPoolBytes } = native("cuda", {
      pinnedMemoryPoolBytes: 1 << 20,
      cudaMemoryPoolBytes: [0, 1 << 26],
    });
    expect(pinnedMemoryPoolBytes).toBe(1 << 20);
    expect(cudaMemoryPoolBytes.slice(0, 3)).toEqual([0, 1 << 26, 0]);
  });
});

describe("the runtime", () => {
  const runtime = { directory: "/r", device: "cpu", triton };

  it("is found where none is given", async () => {
    const before = process.env["TRITONODE_RUNTIME_DIR"];
    process.env["TRITONODE_RUNTIME_DIR"] = "/no/such/runtime";
    try {
      await expect(resolveOptions({})).rejects.toMatchObject({ code: "ERR_RUNTIME_MISSING" });
    } finally {
      if (before === undefined) delete process.env["TRITONODE_RUNTIME_DIR"];
      else process.env["TRITONODE_RUNTIME_DIR"] = before;
    }
  });

  it.each([
    ["a folder", "/r", /"\/r"/],
    ["a number", 3, /number 3/],
    ["another object", {}, /an object/],
  ])("is refused with what to do when it is %s", async (_, value, message) => {
    const error = await resolveOptions({ runtime: value as never }).catch((e: unknown) => e);
    expect(error).toMatchObject({ code: "ERR_INVALID_ARGUMENT", message: expect.stringMatching(message) });
    expect((error as { hint: string }).hint).toContain("findRuntime({ directory })");
  });

  it("stays as it was given", async () => {
    expect((await resolveOptions({ runtime: runtime as never })).runtime).toBe(runtime);
  });

  it("does not hide an unknown option", async () => {
    const options = { runtime: runtime as never, modelRepository: [] } as TritonServerOptions;
    await expect(resolveOptions(options)).rejects.toThrow("did you mean 'modelRepositories'?");
  });
});
