import { existsSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { RuntimeMissingError } from "../../errors";
import type { Device, Runtime } from "../runtime";
import { setupCommand } from "./paths";

/** Why CUDA finds no GPU, and what to do about it. */
export interface GpuFlaw {
  detail: string;
  hint: string;
}

export interface GpuPlaces {
  /** Root of the file system to examine. */
  root?: string;
  environment?: NodeJS.ProcessEnv;
}

const CONTAINER = "in Docker: --gpus all with NVIDIA's container toolkit";
const DRIVER_LIBRARY = "libcuda.so.1";
/** The loader's default folders; all others are in its cache or in LD_LIBRARY_PATH. */
const LIBRARY_FOLDERS = [
  "lib",
  "lib64",
  "usr/lib",
  "usr/lib64",
  "usr/lib/x86_64-linux-gnu",
  "usr/lib/aarch64-linux-gnu",
];

/** The device files that CUDA opens: those of NVIDIA's driver, of Windows' under WSL 2, of a Jetson. One of them is enough. */
const DEVICES = ["dev/nvidiactl", "dev/dxg", "dev/nvhost-gpu", "dev/nvgpu", "dev/nvmap"];

/**
 * Looks for the driver, its device files and its library, as CUDA does, and starts nothing. vLLM itself says only "Failed to
 * infer device type", after 16 seconds of imports.
 *
 * @returns undefined if all three exist.
 */
export function gpuFlaw(places: GpuPlaces = {}): GpuFlaw | undefined {
  const { root = "/", environment = process.env } = places;
  const cpu = `without a GPU: ${setupCommand({ device: "cpu" })}`;
  if (DEVICES.every((path) => !existsSync(join(root, path)))) {
    // In a container, /proc shows the kernel's driver whether or not the container has the device.
    return existsSync(join(root, "proc/driver/nvidia/version"))
      ? { detail: "the driver is loaded, but /dev/nvidiactl is not here", hint: `${CONTAINER}; ${cpu}` }
      : { detail: "no NVIDIA driver is loaded", hint: `install NVIDIA's driver; ${CONTAINER}; ${cpu}` };
  }
  if (!hasDriverLibrary(root, environment)) {
    return {
      detail: `the driver's library ${DRIVER_LIBRARY} is not found`,
      hint: `install the libraries of NVIDIA's driver, or name their folder in LD_LIBRARY_PATH; ${CONTAINER}`,
    };
  }
  return undefined;
}

/**
 * @throws {@link RuntimeMissingError} (`ERR_GPU_MISSING`) if the runtime needs a GPU and CUDA would find none.
 */
export function requireGpu(runtime: Pick<Runtime, "device" | "directory">, places: GpuPlaces = {}): void {
  const device: Device = runtime.device;
  const flaw = device === "cuda" ? gpuFlaw(places) : undefined;
  if (flaw === undefined) return;
  throw new RuntimeMissingError(`the runtime in ${runtime.directory} is for CUDA, and ${flaw.detail}`, {
    code: "ERR_GPU_MISSING",
    hint: flaw.hint,
  });
}

function hasDriverLibrary(root: string, environment: NodeJS.ProcessEnv): boolean {
  const named = (environment.LD_LIBRARY_PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  const folders = [...named, ...LIBRARY_FOLDERS.map((folder) => join(root, folder))];
  if (folders.some((folder) => existsSync(join(folder, DRIVER_LIBRARY)))) return true;
  try {
    // ld.so(8)'s cache lists names as plain text
    return readFileSync(join(root, "etc/ld.so.cache")).includes(`${DRIVER_LIBRARY}\0`);
  } catch {
    return false;
  }
}
