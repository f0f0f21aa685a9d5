import { command, type OptionSpec } from "../spec";

/** Options that several commands share. */
export const json = { type: "boolean", default: false, help: "the result as JSON on standard output" } as const;
const device = { type: "string", choices: ["cpu", "cuda"] } as const;
const directory = { type: "string", value: "FOLDER", takes: "folder" } as const satisfies Partial<OptionSpec>;

export const setup = command({
  name: "setup",
  summary: "install the runtime: Python packages, Triton, vLLM",
  arguments: [],
  description: [
    "Installs the runtime: a Python environment with Triton and vLLM, in versions that were tested together. If the runtime is already complete, it says so and ends. It may be interrupted and run again.",
  ],
  options: {
    device: {
      ...device,
      help: "the device that the engine uses (default: cuda if an NVIDIA GPU is found, else cpu)",
    },
    dir: {
      ...directory,
      help: "the folder to install into (default: $TRITONODE_RUNTIME_DIR, else the user's data folder)",
    },
    python: {
      type: "string",
      value: "PYTHON",
      takes: "file",
      help: "the Python 3.11 or 3.12 to use: a path, or a name on PATH",
    },
    "use-installed": {
      type: "boolean",
      default: false,
      help: "use the torch and the vLLM that this Python (or the active environment's) has; only missing packages are added, in the runtime's own folder, and that Python's environment is not changed. Works with Python 3.10 too",
    },
    offline: {
      type: "string",
      value: "BUNDLE",
      takes: "file",
      help: "install from a bundle that `tritonode bundle` made, without a network",
    },
    triton: {
      type: "string",
      value: "FOLDER|none",
      takes: "folder",
      help: "use this installed Triton, or the one from PyPI (default: the tritonserver on PATH, else /opt/tritonserver, else the one from PyPI)",
    },
    "torch-index": { type: "string", value: "URL", help: "install torch from this package index" },
    with: {
      type: "string",
      multiple: true,
      value: "NAMES",
      help: "further packages (comma-separated): vision (video for vision models), portable (vLLM's kernels for every processor, for a container image or a folder that will be copied), full, test, demo",
    },
    full: {
      type: "boolean",
      default: false,
      help: "install every package completely, 3.5 GB; by default a CPU's runtime has only what serving a model needs, 1.3 GB",
    },
    installer: {
      type: "string",
      value: "uv|pip",
      help: "the installer of the packages (default: $TRITONODE_INSTALLER, else uv if it finds all of them)",
    },
    "dry-run": { type: "boolean", default: false, help: "only say what would be done" },
    json: { ...json, help: "the plan, each step and the result as one JSON object a line" },
  },
  notes: [
    "Your own configuration of pip or uv (mirrors, proxies, certificates) is used. uv is used if it is on PATH (or named in TRITONODE_UV), unless pip's configuration names an index that uv does not know. After an interruption, run the same command again: it reuses the downloads that are complete, from the installer's cache.",
  ],
});

export const doctor = command({
  name: "doctor",
  summary: "check the installation, and say how to fix problems",
  arguments: [],
  description: [
    "Checks whether this machine can serve a model, and says for each problem how to fix it. Changes nothing without --fix. The exit code is 1 if a problem would keep a model from loading or from working correctly.",
    "With --fix it repairs what it can, after it has said what it will do: it removes what dead processes left (shared memory, private folders, Python children), builds the addon, and sets up a runtime that is missing or damaged.",
  ],
  options: {
    device: { ...device, help: "the runtime to check (default: the one that would be used)" },
    dir: { ...directory, help: "the runtime's folder (default: $TRITONODE_RUNTIME_DIR, else the user's data folder)" },
    triton: { ...directory, help: "an installed Triton to use with it, e.g. /opt/tritonserver" },
    fix: { type: "boolean", default: false, help: "repair what can be repaired; asks before each step" },
    yes: { type: "boolean", default: false, help: "do not ask" },
    json: { ...json, help: "one JSON object a line: name, status, detail, fix" },
  },
});

export const bundle = command({
  name: "bundle",
  summary: "download everything that `setup --offline` needs into one file",
  arguments: [
    {
      name: "OUT",
      optional: true,
      takes: "file",
      help: "the file, or with --parts the folder, to write (default: tritonode-runtime.tar, tritonode-runtime)",
    },
  ],
  description: [
    "Downloads everything that `tritonode setup --offline OUT` needs on a machine without a network, into one .tar file, or with --parts into a folder of files of at most that size, whose bundle.json has the SHA-256 of each.",
  ],
  options: {
    device: { ...device, default: "cpu", help: "what the runtime is for (default: cpu)" },
    python: {
      type: "string",
      value: "PYTHON",
      takes: "file",
      help: "a Python of the same version as on the other machine (default: the best found here)",
    },
    parts: { type: "string", value: "SIZE", help: "write parts of at most this size: 60M, 2G" },
    "use-installed": {
      type: "boolean",
      default: false,
      help: "the other machine's Python has vLLM and torch: bundle only what `setup --use-installed` adds",
    },
    "torch-index": { type: "string", value: "URL", help: "install torch from this package index" },
    with: {
      type: "string",
      multiple: true,
      value: "NAMES",
      help: "further packages (comma-separated): vision, full, test, demo",
    },
    json,
  },
});

export const remove = command({
  name: "remove",
  summary: "delete a runtime that setup made",
  arguments: [],
  description: [
    "Deletes a runtime that `tritonode setup` made: --dir, --device or --all says which. Refuses a folder that is not a runtime, one that a setup is working on, and one that a running process uses. Files in it that setup did not make are kept.",
  ],
  options: {
    dir: { ...directory, help: "the runtime in this folder" },
    device: { ...device, help: "this version's runtime for this device, in its usual place" },
    all: { type: "boolean", default: false, help: "every runtime of every version that setup made for this user" },
    yes: { type: "boolean", short: "y", default: false, help: "do not ask first (required without a terminal)" },
    json: { ...json, help: "one JSON object a line for each runtime: directory, bytes, removed, kept" },
  },
});

export const build = command({
  name: "build",
  summary: "build the native addon on this machine, from the package's sources",
  arguments: [],
  description: [
    "Builds the native addon and the CPU kernels from the sources in the package, for this machine; they are used from then on instead of the prebuilt ones. This needs only a C++20 compiler (GCC 11, Clang 14 or later). Usually it is not necessary: the package contains both for Linux on x64 and arm64.",
  ],
  options: { json },
  notes: ["CXX names the compiler to use (default: the first of c++, g++ and clang++ on PATH)."],
});
