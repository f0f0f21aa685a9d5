import { TritonodeError } from "../../errors";
import { bundle, planLines, planSetup, type SetupProgress, setup } from "../../runtime";
import { partSize } from "../../runtime/install/parts";
import { names, parse } from "../arguments";
import type { Command, Context } from "../context";
import { ProgressBar } from "../progress-bar";
import { device } from "../shared-options";
import { styler } from "../terminal";

const setupHelp = `Usage: tritonode setup [options]

Installs the runtime: a Python environment with Triton and vLLM, in versions tested together.
Done already? Then it says so at once. It may be interrupted and run again.

Options:
  --device cpu|cuda     what the engine computes on (default: cuda where an NVIDIA GPU is in reach, else cpu)
  --dir FOLDER          where to put it (default: $TRITONODE_RUNTIME_DIR, else the user's data folder)
  --python PYTHON       the Python 3.11 or 3.12 to build on: a path, or a name on PATH
  --use-installed       use the torch and the vLLM that this Python (or the active environment's) has; only what is
                        missing is added, in the runtime's own folder, and nothing there is changed. Python 3.10 too
  --offline BUNDLE      take everything from a file that \`tritonode bundle\` made
  --triton FOLDER|none  use this installed Triton, or the one from PyPI (default: the tritonserver on PATH, else
                        /opt/tritonserver, else the one from PyPI)
  --torch-index URL     take torch from this package index
  --with NAMES          further packages (comma-separated): vision (video for models that see), portable (vLLM's
                        kernels for every processor, for an image or a folder that moves), full, test, demo
  --full                install all of every package, 3.5 GB; by default a CPU's runtime has what loads need, 1.3 GB
  --installer uv|pip    what installs the packages (default: $TRITONODE_INSTALLER, else uv where it finds all of them)
  --dry-run             say what would be done, and do nothing
  --json                the plan, each step and the result as one JSON object a line
  -h, --help            show this text

Your own configuration of pip or uv (mirrors, proxies, certificates) is used as it is. uv is taken where it is on PATH
(or named in TRITONODE_UV) unless pip's configuration names an index that uv knows nothing of.
Interrupted? The same command again goes on with the downloads that are complete: they are in the installer's cache.
`;

const bundleHelp = `Usage: tritonode bundle OUT [options]

Downloads all that \`tritonode setup --offline OUT\` needs on a machine without a network: into one .tar file, or with
--parts into a folder of files of that size, each with its SHA-256 in the folder's bundle.json.

Options:
  --device cpu|cuda     what the runtime is for (default: cpu)
  --python PYTHON       a Python of the version that the other machine has (default: the best found here)
  --parts SIZE          write parts of at most this size: 60M, 2G
  --use-installed       the other machine's Python has vLLM and torch: bring only what \`setup --use-installed\` adds
  --torch-index URL     take torch from this package index
  --with NAMES          further packages (comma-separated): vision, full, test, demo
  -h, --help            show this text
`;

export const setupCommand: Command = {
  name: "setup",
  summary: "install the runtime: Python packages, Triton, vLLM",
  help: setupHelp,
  async run(args, context) {
    const { values } = parse("setup", args, {
      device: { type: "string" },
      dir: { type: "string" },
      python: { type: "string" },
      "use-installed": { type: "boolean", default: false },
      offline: { type: "string" },
      triton: { type: "string" },
      "torch-index": { type: "string" },
      with: { type: "string", multiple: true },
      full: { type: "boolean", default: false },
      installer: { type: "string" },
      "dry-run": { type: "boolean", default: false },
      json: { type: "boolean", default: false },
    });
    const { stdout } = context;
    const line = (event: string, value: object) => stdout.write(`${JSON.stringify({ event, ...value })}\n`);
    const options = {
      device: values.device === undefined ? undefined : device(values.device),
      directory: values.dir,
      python: values.python,
      useInstalled: values["use-installed"],
      offline: values.offline,
      triton: values.triton,
      torchIndex: values["torch-index"],
      extras: [...names(values.with), ...(values.full ? ["full"] : [])],
      installer: values.installer,
      signal: context.signal,
    };
    if (values["dry-run"]) {
      const plan = await planSetup(options);
      if (values.json) line("plan", plan);
      else stdout.write(`${planLines(plan).join("\n")}\n`);
      return 0;
    }
    const started = performance.now();
    const seconds = () => Math.round((performance.now() - started) / 100) / 10;
    if (values.json) {
      try {
        const runtime = await setup({
          ...options,
          onPlan: (plan) => line("plan", plan),
          onProgress: (progress) => line("progress", progress),
        });
        line("ready", { ...runtime, seconds: seconds() });
        return 0;
      } catch (error) {
        if (!(error instanceof TritonodeError)) throw error;
        const { code, message, hint } = error;
        line("error", { code, message, hint });
        throw error;
      }
    }
    const runtime = await watched(context, (onProgress, log) =>
      setup({
        ...options,
        onPlan: (plan) => {
          for (const text of planLines(plan)) log(text);
        },
        onProgress,
      }),
    );
    const style = styler(stdout, context.environment);
    stdout.write(
      `${style("green", "ready")}: ${runtime.directory}\n` +
        `Triton ${runtime.triton.version}, vLLM ${runtime.vllmVersion}, Python ${runtime.pythonVersion}, ` +
        `device ${runtime.device} (${seconds().toFixed(1)} s)\n`,
    );
    return 0;
  },
};

export const bundleCommand: Command = {
  name: "bundle",
  summary: "download all that `setup --offline` needs into one file",
  help: bundleHelp,
  async run(args, context) {
    const { values, positionals } = parse(
      "bundle",
      args,
      {
        device: { type: "string", default: "cpu" },
        python: { type: "string" },
        parts: { type: "string" },
        "use-installed": { type: "boolean", default: false },
        "torch-index": { type: "string" },
        with: { type: "string", multiple: true },
      },
      1,
    );
    const parts = values.parts === undefined ? undefined : partSize(values.parts);
    const output = positionals[0] ?? (parts === undefined ? "tritonode-runtime.tar" : "tritonode-runtime");
    const path = await watched(context, (onProgress) =>
      bundle({
        output,
        device: device(values.device),
        python: values.python,
        parts,
        useInstalled: values["use-installed"],
        torchIndex: values["torch-index"],
        extras: names(values.with),
        signal: context.signal,
        onProgress,
      }),
    );
    context.stdout.write(`${path}\n`);
    return 0;
  },
};

/** Runs something long with a progress bar on stderr. */
async function watched<T>(
  context: Context,
  work: (report: (progress: SetupProgress) => void, log: (line: string) => void) => Promise<T>,
): Promise<T> {
  const bar = new ProgressBar(context.stderr, context.environment);
  try {
    return await work(
      (progress) => {
        if (progress.phase === "done") return;
        bar.update({ phase: progress.phase, message: progress.message, fraction: fractionOf(progress) });
      },
      (line) => bar.log(line),
    );
  } finally {
    bar.end();
  }
}

/** How far the phase is: whole packages, and the part of the current one. */
export function fractionOf({ index, count, receivedBytes, totalBytes }: SetupProgress): number | undefined {
  const part = receivedBytes !== undefined && totalBytes ? receivedBytes / totalBytes : 0;
  if (index === undefined || count === undefined) return receivedBytes === undefined ? undefined : part;
  return (index - 1 + part) / count;
}
