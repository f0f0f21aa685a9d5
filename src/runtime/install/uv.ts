import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { run } from "../process";
import { installerFailed, type PipContext, type PipOptions } from "./pip";
import { packageName } from "./progress";

const EXACTLY = ["--no-deps", "--only-binary", ":all:"];
const QUIET = ["--no-progress", "--color", "never"];

/** Like pipInstall, with uv: installs exactly these pins, without their dependencies. */
export async function uvInstall(
  program: string,
  context: PipContext,
  pins: readonly string[],
  options: PipOptions = {},
): Promise<void> {
  const file = join(context.scratch, "requirements.txt");
  await writeFile(file, `${pins.join("\n")}\n`);
  const sources =
    context.wheels === undefined ? indexes(options.index) : ["--offline", "--no-index", "--find-links", context.wheels];
  const args = ["pip", "install", "--python", context.python, ...EXACTLY, ...QUIET, ...sources, "-r", file];
  const { onProgress } = context;
  let downloaded = 0;
  const result = await run(program, args, {
    environment: uvEnvironment(process.env),
    cwd: context.scratch,
    signal: context.signal,
    ...(context.onSpawn === undefined ? {} : { onSpawn: context.onSpawn }),
    onLine: (line) => {
      context.log(line);
      const [, began, size] = /^Downloading (\S+) \((.+)\)$/.exec(line) ?? [];
      const done = /^ Downloaded (\S+)$/.exec(line)?.[1];
      if (began !== undefined) {
        onProgress({ phase: "download", package: packageName(began), message: `downloading ${began} (${size})` });
      } else if (done !== undefined) {
        downloaded++;
        const message = `downloaded ${done} (${downloaded} large ones so far)`;
        onProgress({ phase: "download", package: packageName(done), message });
      } else if (/^(Prepared|Installed) \d+/.test(line)) {
        onProgress({
          phase: "install",
          message: `installing ${pins.length} ${pins.length === 1 ? "package" : "packages"}`,
        });
      }
    },
  });
  if (result.code !== 0) throw installerFailed("uv pip install", result);
}

export interface UvQuestion {
  program: string;
  python: string;
  /** Installs torch, which has its own list of indexes, then everything else. */
  pins: readonly string[];
  torchIndexes: readonly (string | undefined)[];
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal | undefined;
}

/**
 * Asks uv whether it finds every pin for this Python, and installs nothing.
 *
 * @returns undefined if it does, else uv's message
 */
export async function uvResolves(question: UvQuestion): Promise<string | undefined> {
  const [torch = "", ...rest] = question.pins;
  const scratch = await mkdtemp(join(tmpdir(), `tritonode-${process.pid}-`));
  try {
    const flaw = await asked(question, scratch, rest, undefined);
    if (flaw !== undefined) return flaw;
    let last: string | undefined;
    for (const index of question.torchIndexes) {
      last = await asked(question, scratch, [torch], index);
      if (last === undefined) return undefined;
    }
    return last;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function asked(
  { program, python, environment, signal }: UvQuestion,
  scratch: string,
  pins: readonly string[],
  index: string | undefined,
): Promise<string | undefined> {
  const file = join(scratch, "requirements.txt");
  await writeFile(file, `${pins.join("\n")}\n`);
  const target = ["--python", python, "--target", join(scratch, "target")];
  const args = ["pip", "install", "--dry-run", ...target, ...EXACTLY, ...QUIET, ...indexes(index), "-r", file];
  const result = await run(program, args, { environment: uvEnvironment(environment), cwd: scratch, signal });
  if (result.code === 0) return undefined;
  return (
    /^\s*(?:cause|╰─▶|error): (.*)$/m.exec(result.stderr.replace(/^error: No solution.*\n/m, ""))?.[1] ?? "no answer"
  );
}

function indexes(index: string | undefined): string[] {
  return index === undefined ? [] : ["--default-index", index];
}

/** The user's own settings of uv, without those that would install the packages outside the venv. */
export function uvEnvironment(environment: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const clean: NodeJS.ProcessEnv = { ...environment };
  for (const name of ["VIRTUAL_ENV", "CONDA_PREFIX", "UV_SYSTEM_PYTHON", "UV_PYTHON", "UV_TARGET", "UV_PREFIX"]) {
    delete clean[name];
  }
  for (const name of ["PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "UV_CONSTRAINT", "UV_OVERRIDE"]) delete clean[name];
  return clean;
}
