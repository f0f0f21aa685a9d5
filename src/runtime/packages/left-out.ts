/*
 * What a runtime for the CPU leaves out. No plain load and no test imports any of these packages (the whole suite runs
 * without them). Each is needed by one feature, and the extra beside it installs it. On CUDA nothing is left out.
 */

/** The extras of `setup --with` that install what is left out. */
export type LeftOutExtra = "vision" | "full";

export interface LeftOutPackage {
  /** The distribution's name, as in the pins. */
  name: string;
  /** Its top-level modules. */
  modules: readonly string[];
  extra: LeftOutExtra;
  why: string;
}

export const LEFT_OUT_PACKAGES: readonly LeftOutPackage[] = [
  { name: "triton", modules: ["triton"], extra: "full", why: "a compiler for GPUs: 999 MB" },
  { name: "llvmlite", modules: ["llvmlite"], extra: "full", why: "numba's compiler: 162 MB" },
  {
    name: "numba",
    modules: ["numba"],
    extra: "full",
    why: "speculative decoding by n-grams, and the image processors of two models: 34 MB",
  },
  {
    name: "intel-openmp",
    modules: [],
    extra: "full",
    why: "another OpenMP, which is used only where a user preloads it (torch brings its own): 100 MB",
  },
  { name: "intel-cmplr-lib-ur", modules: [], extra: "full", why: "for intel-openmp's offloading to GPUs: 12 MB" },
  { name: "anthropic", modules: ["anthropic"], extra: "full", why: "a client of another service: 35 MB" },
  {
    name: "hf-xet",
    modules: ["hf_xet"],
    extra: "full",
    why: "downloads from a hub, which the engine never makes: 11 MB",
  },
  { name: "sentry-sdk", modules: ["sentry_sdk"], extra: "full", why: "for fastapi-cloud-cli: 6 MB" },
  {
    name: "fastapi-cloud-cli",
    modules: ["fastapi_cloud_cli"],
    extra: "full",
    why: "deploys applications to a cloud service",
  },
  { name: "rignore", modules: ["rignore"], extra: "full", why: "for fastapi-cloud-cli" },
  { name: "fastar", modules: ["fastar"], extra: "full", why: "for fastapi-cloud-cli" },
  { name: "opencv-python-headless", modules: ["cv2"], extra: "vision", why: "decodes video: 153 MB" },
];

export interface LeftOutFiles {
  /** A folder below site-packages. */
  folder: string;
  /** Which names in it are removed, with everything in them. */
  names: (name: string, pythonVersion: string) => boolean;
  why: string;
}

/** Parts of packages that are needed apart from these parts: they are removed after unpacking. */
export const LEFT_OUT_FILES: readonly LeftOutFiles[] = [
  { folder: "torch", names: (name) => name === "test", why: "torch's C++ tests: 83 MB" },
  {
    folder: "torch/bin",
    // torch looks for this one when it is imported.
    names: (name) => name !== "torch_shm_manager",
    why: "programs that test torch, and protoc: 50 MB",
  },
  {
    folder: "pytriton/tritonserver/python_backend_stubs",
    names: (name, pythonVersion) => name !== pythonVersion,
    why: "the stubs of Triton's Python backend for other versions of Python: 7 MB",
  },
  {
    folder: "nvidia_pytriton.libs",
    names: (name, pythonVersion) => name.startsWith("libpython3") && pythonVersion !== "3.13",
    why: "the libpython of the stub for Python 3.13, and of nothing else there: 32 MB",
  },
];

/** vLLM's wheel has its CPU kernels in three builds, of which it loads the one for the processor. */
export const KERNEL_BUILDS = ["_C", "_C_AVX512", "_C_AVX2"] as const;

/** What a manifest records about a runtime that is not full. */
export interface LeftOut {
  /** Distribution → the extra that installs it. */
  packages: Record<string, LeftOutExtra>;
  /** Top-level module → the extra that installs it: the backend names it when something imports the module. */
  modules: Record<string, LeftOutExtra>;
  /** Those of {@link KERNEL_BUILDS} that this machine's processor does not use. */
  builds: string[];
}

/** What is left out of a runtime with these extras; undefined: nothing. */
export function leftOut(device: "cpu" | "cuda", extras: readonly string[]): Omit<LeftOut, "builds"> | undefined {
  if (device === "cuda" || extras.includes("full")) return undefined;
  const absent = LEFT_OUT_PACKAGES.filter(({ extra }) => !extras.includes(extra));
  return {
    packages: Object.fromEntries(absent.map(({ name, extra }) => [name, extra])),
    modules: Object.fromEntries(absent.flatMap(({ modules, extra }) => modules.map((module) => [module, extra]))),
  };
}
