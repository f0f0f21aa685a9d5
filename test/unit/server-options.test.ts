import { describe, expect, it } from "vitest";
import { type TritonServerOptions, toNativeOptions } from "../../src/server/options";
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
  return toNativeOptions({ runtime, ...options } as TritonServerOptions, workspace as unknown as Workspace);
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
