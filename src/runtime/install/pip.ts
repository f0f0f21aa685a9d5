import { readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { SetupError } from "../errors";
import { type RunResult, run } from "../process";
import { type OnSetupProgress, PipOutput, packageName } from "./progress";

export interface PipContext {
  /** The venv's interpreter. */
  python: string;
  /** The folder in which the installed packages can be counted; undefined while only downloading. */
  sitePackages?: string | undefined;
  /** A folder of wheels that replaces every index (an offline bundle). */
  wheels?: string | undefined;
  signal?: AbortSignal | undefined;
  onProgress: OnSetupProgress;
  onSpawn?: ((pid: number) => void) | undefined;
  /** Called with each line of pip's output. */
  log: (line: string) => void;
  /** Folder for the requirements file of a call. */
  scratch: string;
}

export interface PipOptions {
  /** An index that replaces the user's own for this call. */
  index?: string | undefined;
  /** Install a package although the interpreter finds it elsewhere. */
  ignoreInstalled?: boolean;
}

const POLL_MS = 300;

/** Installs exactly these pins, without their dependencies (requirements.ts says why). */
export async function pipInstall(
  context: PipContext,
  pins: readonly string[],
  options: PipOptions = {},
): Promise<void> {
  const ignore = options.ignoreInstalled ? ["--ignore-installed"] : [];
  // pip compiles module by module on one processor: parallel.ts does it on all of them.
  const exactly = ["--no-deps", "--only-binary", ":all:", "--no-compile"];
  const args = ["install", ...exactly, ...ignore, ...options_(options)];
  await pip(context, args, pins);
}

/** Downloads the wheels of these pins into `target`. */
export async function pipDownload(
  context: PipContext,
  pins: readonly string[],
  target: string,
  options: PipOptions = {},
): Promise<void> {
  await pip(context, ["download", "--no-deps", "--only-binary", ":all:", "--dest", target, ...options_(options)], pins);
}

/** Whether pip or uv failed because none of its indexes or folders has the package. */
export function isNotFound(error: unknown, name: string): boolean {
  if (!(error instanceof InstallerError)) return false;
  const { output } = error;
  return (
    output.includes(`No matching distribution found for ${name}`) ||
    new RegExp(`(there is no version of ${name}\\b|\\b${name} was not found in)`).test(output)
  );
}

/** pip or uv failed; `output` is the last part of its output. */
export class InstallerError extends SetupError {
  constructor(
    message: string,
    readonly output: string,
    options?: { hint?: string | undefined },
  ) {
    super(message, options);
  }
}

/** Name → version of all installed packages. */
export async function installedPackages(context: PipContext): Promise<Record<string, string>> {
  const result = await run(context.python, ["-m", "pip", "list", "--format", "json"], {
    environment: pipEnvironment(process.env, false),
    signal: context.signal,
  });
  if (result.code !== 0) throw installerFailed("listing the installed packages", result);
  const list = JSON.parse(result.stdout) as { name: string; version: string }[];
  return Object.fromEntries(list.map(({ name, version }) => [packageName(name), version]));
}

/**
 * The environment for pip: the user's own configuration, without settings that would install the packages outside the venv or
 * change the form of its output. Offline it also has no index.
 */
export function pipEnvironment(environment: NodeJS.ProcessEnv, offline: boolean): NodeJS.ProcessEnv {
  const clean: NodeJS.ProcessEnv = { ...environment };
  const foreign = ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"];
  const diverting = ["PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_QUIET", "PIP_VERBOSE", "PIP_DRY_RUN", "PIP_REPORT"];
  for (const name of [...foreign, ...diverting]) delete clean[name];
  if (offline) {
    for (const name of ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"]) delete clean[name];
    clean.PIP_CONFIG_FILE = "/dev/null";
  }
  // An interrupted download continues where it stopped (pip 25.1 and later; older ones ignore it).
  clean.PIP_RESUME_RETRIES ??= "20";
  // pip reads 0 and 1 for switches; a configuration file that says user=true would fail inside a venv
  return { ...clean, PIP_USER: "0", PIP_NO_INPUT: "1", PIP_DISABLE_PIP_VERSION_CHECK: "1", PYTHONUNBUFFERED: "1" };
}

async function pip(context: PipContext, args: string[], pins: readonly string[]): Promise<void> {
  const file = join(context.scratch, "requirements.txt");
  await writeFile(file, `${pins.join("\n")}\n`);
  const raw = await hasRawProgress(context);
  const output = new PipOutput(pins.length, context.onProgress);
  const watch = context.sitePackages === undefined ? undefined : watchInstall(context.sitePackages, output, context);
  const sources = context.wheels === undefined ? [] : ["--no-index", "--find-links", context.wheels];
  const full = ["-m", "pip", ...args, ...sources, "--no-color", "--progress-bar", raw ? "raw" : "off", "-r", file];
  try {
    const result = await run(context.python, full, {
      environment: pipEnvironment(process.env, context.wheels !== undefined),
      signal: context.signal,
      ...(context.onSpawn === undefined ? {} : { onSpawn: context.onSpawn }),
      onLine: (line, stream) => {
        if (!/^\s*Progress \d+ of \d+/.test(line)) context.log(line);
        if (stream === "stdout") output.line(line);
      },
    });
    if (result.code !== 0) throw installerFailed(`pip ${args[0]}`, result);
  } finally {
    clearInterval(watch);
  }
}

/** pip prints nothing while it unpacks gigabytes; the metadata folders that appear show its progress. */
function watchInstall(sitePackages: string, output: PipOutput, context: PipContext): NodeJS.Timeout {
  let last = -1;
  let before: Set<string> | undefined;
  const timer = setInterval(() => {
    const present = new Set(metadataFolders(sitePackages));
    const { installing } = output;
    if (installing === undefined) {
      before = present;
      return;
    }
    const known = before ?? new Set<string>();
    const done = [...present].filter((name) => !known.has(name)).length;
    if (done === last || done >= installing.length) return;
    last = done;
    const name = packageName(installing[done] ?? "");
    const count = installing.length;
    const message = `installing ${name} (${done + 1} of ${count})`;
    context.onProgress({ phase: "install", package: name, index: done + 1, count, message });
  }, POLL_MS);
  timer.unref();
  return timer;
}

function metadataFolders(sitePackages: string): string[] {
  try {
    return readdirSync(sitePackages).filter((name) => name.endsWith(".dist-info") && !name.startsWith("~"));
  } catch {
    return [];
  }
}

async function hasRawProgress(context: PipContext): Promise<boolean> {
  const { stdout } = await run(context.python, ["-m", "pip", "--version"], {
    environment: pipEnvironment(process.env, true),
    signal: context.signal,
  });
  const [major = 0, minor = 0] = (/^pip (\d+)\.(\d+)/.exec(stdout) ?? []).slice(1).map(Number);
  return major > 24 || (major === 24 && minor >= 1);
}

export function installerFailed(what: string, result: RunResult): InstallerError {
  const output = `${result.stdout}\n${result.stderr}`;
  const errors = output.split("\n").filter((line) => /^\s*(ERROR|error|cause):/.test(line));
  const ending = result.signal === null ? `exit code ${result.code}` : `signal ${result.signal}`;
  const reason = errors.length > 0 ? errors.slice(-2).join(" ").trim() : (output.trim().split("\n").at(-1) ?? "");
  return new InstallerError(`${what} failed (${ending}): ${reason}`, output, { hint: hintFor(output) });
}

/** What to do about frequent failures. */
function hintFor(output: string): string | undefined {
  if (/No space left on device|Errno 28/.test(output))
    return "free some disk space, or choose another place with --dir";
  if (/Connection refused|Temporary failure in name resolution|NewConnectionError|Max retries/.test(output)) {
    return "the package index was not reached: check the network, the proxy and `pip config list`, or use --offline BUNDLE";
  }
  const missing = /No matching distribution found for ([^\s;]+)/.exec(output)?.[1];
  if (missing !== undefined) {
    return missing.startsWith("torch=")
      ? "name an index that has it with --torch-index URL, or a Python that your own index has it for with --python"
      : `your pip configuration's index has no ${missing} for this Python: look at \`pip config list\``;
  }
  return undefined;
}

function options_(options: PipOptions): string[] {
  return options.index === undefined ? [] : ["--index-url", options.index, "--retries", "2"];
}
