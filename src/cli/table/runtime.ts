import { command, type OptionSpec } from "../spec";

/** Options that mean the same wherever they are. */
export const json = { type: "boolean", default: false, help: "the result as JSON on standard output" } as const;
const device = { type: "string", choices: ["cpu", "cuda"] } as const;
const directory = { type: "string", value: "FOLDER", takes: "folder" } as const satisfies Partial<OptionSpec>;

export const setup = command({
  name: "setup",
  summary: "install the runtime: Python packages, Triton, vLLM",
  arguments: [],
  description: [
    "Installs the runtime: a Python environment with Triton and vLLM, in versions tested together. Done already? Then it says so at once. It may be interrupted and run again.",
  ],
  options: {
    device: {
      ...device,
      help: "what the engine computes on (default: cuda where an NVIDIA GPU is in reach, else cpu)",
    },
    dir: { ...directory, help: "where to put it (default: $TRITONODE_RUNTIME_DIR, else the user's data folder)" },
    python: {
      type: "string",
      value: "PYTHON",
      takes: "file",
      help: "the Python 3.11 or 3.12 to build on: a path, or a name on PATH",
    },
    "use-installed": {
      type: "boolean",
      default: false,
      help: "use the torch and the vLLM that this Python (or the active environment's) has; only what is missing is added, in the runtime's own folder, and nothing there is changed. Python 3.10 too",
    },
    offline: {
      type: "string",
      value: "BUNDLE",
      takes: "file",
      help: "take everything from what `tritonode bundle` made",
    },
    triton: {
      type: "string",
      value: "FOLDER|none",
      takes: "folder",
      help: "use this installed Triton, or the one from PyPI (default: the tritonserver on PATH, else /opt/tritonserver, else the one from PyPI)",
    },
    "torch-index": { type: "string", value: "URL", help: "take torch from this package index" },
    with: {
      type: "string",
      multiple: true,
      value: "NAMES",
      help: "further packages (comma-separated): vision (video for models that see), portable (vLLM's kernels for every processor, for an image or a folder that moves), full, test, demo",
    },
    full: {
      type: "boolean",
      default: false,
      help: "install all of every package, 3.5 GB; by default a CPU's runtime has what loads need, 1.3 GB",
    },
    installer: {
      type: "string",
      value: "uv|pip",
      help: "what installs the packages (default: $TRITONODE_INSTALLER, else uv where it finds all of them)",
    },
    "dry-run": { type: "boolean", default: false, help: "say what would be done, and do nothing" },
    json: { ...json, help: "the plan, each step and the result as one JSON object a line" },
  },
  notes: [
    "Your own configuration of pip or uv (mirrors, proxies, certificates) is used as it is. uv is taken where it is on PATH (or named in TRITONODE_UV) unless pip's configuration names an index that uv knows nothing of. Interrupted? The same command again goes on with the downloads that are complete: they are in the installer's cache.",
  ],
});

export const doctor = command({
  name: "doctor",
  summary: "say what fits, what does not, and how to fix it",
  arguments: [],
  description: [
    "Says line by line whether this machine can serve a model, and how to fix what is wrong. Changes nothing without --fix. Exit code 1 when something would keep a model from loading or serve it wrongly.",
    "With --fix it does what it can itself, and says before what it will do: removes what dead processes left (shared memory, private folders, Python children), builds the addon, sets up a runtime that is missing or damaged.",
  ],
  options: {
    device: { ...device, help: "the runtime to look at (default: the one that would be used)" },
    dir: { ...directory, help: "where it lies (default: $TRITONODE_RUNTIME_DIR, else the user's data folder)" },
    triton: { ...directory, help: "an installed Triton to use with it, e.g. /opt/tritonserver" },
    fix: { type: "boolean", default: false, help: "mend what can be mended from here; asks before each step" },
    yes: { type: "boolean", default: false, help: "do not ask" },
    json: { ...json, help: "one JSON object a line: name, status, detail, fix" },
  },
});

export const bundle = command({
  name: "bundle",
  summary: "download all that `setup --offline` needs into one file",
  arguments: [
    {
      name: "OUT",
      optional: true,
      takes: "file",
      help: "the file, or with --parts the folder, to write (default: tritonode-runtime.tar, tritonode-runtime)",
    },
  ],
  description: [
    "Downloads all that `tritonode setup --offline OUT` needs on a machine without a network: into one .tar file, or with --parts into a folder of files of that size, each with its SHA-256 in the folder's bundle.json.",
  ],
  options: {
    device: { ...device, default: "cpu", help: "what the runtime is for (default: cpu)" },
    python: {
      type: "string",
      value: "PYTHON",
      takes: "file",
      help: "a Python of the version that the other machine has (default: the best found here)",
    },
    parts: { type: "string", value: "SIZE", help: "write parts of at most this size: 60M, 2G" },
    "use-installed": {
      type: "boolean",
      default: false,
      help: "the other machine's Python has vLLM and torch: bring only what `setup --use-installed` adds",
    },
    "torch-index": { type: "string", value: "URL", help: "take torch from this package index" },
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
    "Deletes a runtime that `tritonode setup` made: one of --dir, --device and --all says which. Refuses a folder that is none, one that a setup is working on, and one that a live process uses. Files in it that setup did not make stay.",
  ],
  options: {
    dir: { ...directory, help: "the runtime in this folder" },
    device: { ...device, help: "this version's runtime for this device, in its usual place" },
    all: { type: "boolean", default: false, help: "every runtime of every version that setup made for this user" },
    yes: { type: "boolean", short: "y", default: false, help: "do not ask first (without a terminal it is needed)" },
    json: { ...json, help: "one JSON object a line for each runtime: directory, bytes, removed, kept" },
  },
});

export const build = command({
  name: "build",
  summary: "build the native addon on this machine, from the package's sources",
  arguments: [],
  description: [
    "Builds the native addon and the CPU kernels from the sources in the package, for this machine, and uses them from then on instead of those that came with it. It needs a C++20 compiler (GCC 11, Clang 14 or later) and nothing else. Usually this is not needed: the package brings both for Linux on x64 and arm64.",
  ],
  options: { json },
  notes: ["CXX names another compiler than the first of c++, g++ and clang++ on PATH."],
});
