import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { basename, join } from "node:path";
import { TritonodeError } from "../../errors";
import { hostObstacle } from "../../host";
import { packageRoot } from "../../package-root";
import { onPath } from "../find/python";
import { run } from "../process";

/** The native files could not be built. `hint` names the missing tool, or what to change. */
export class BuildError extends TritonodeError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super("ERR_BUILD_FAILED", message, options);
  }
}

export interface CompileOptions {
  /** The package to build; default: this one. */
  root?: string | undefined;
  environment?: NodeJS.ProcessEnv | undefined;
  signal?: AbortSignal | undefined;
  /** Called for each file that was compiled or linked, with the number of finished files and their total. */
  onProgress?: ((file: string, done: number, total: number) => void) | undefined;
}

const GET_COMPILER =
  "install GCC 11 or later, or Clang 14 or later: apt-get install g++ (Fedora: dnf install gcc-c++); or name one in CXX";

/** The flags of binding.gyp for both, without -Werror: a new warning of a newer compiler must not fail a user's build. */
const COMMON = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-pthread", "-fvisibility=hidden", "-fexceptions", "-frtti"];
const LINK = ["-shared", "-pthread", "-Wl,--as-needed", "-Wl,-z,nodelete", "-Wl,-z,now", "-Wl,--exclude-libs,ALL"];

interface Target {
  file: string;
  sources: string;
  flags: readonly string[];
  libraries: readonly string[];
}

function targets(root: string): Target[] {
  const headers = [join(root, "headers/node-addon-api"), join(root, "headers/node-api-headers/include")];
  return [
    {
      file: "tritonode.node",
      sources: join(root, "native/sources.txt"),
      flags: [
        ...headers.flatMap((folder) => ["-isystem", folder]),
        "-DNAPI_VERSION=9",
        "-DNODE_ADDON_API_CPP_EXCEPTIONS",
        "-DNODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS",
        "-DNODE_GYP_MODULE_NAME=tritonode",
      ],
      libraries: ["-ldl"],
    },
    {
      file: "libtritonode_punica.so",
      sources: join(root, "native/punica/sources.txt"),
      // No contraction: see native/punica/CMakeLists.txt.
      flags: ["-ffp-contract=off"],
      libraries: [],
    },
    {
      file: "libtritonode_warm.so",
      sources: join(root, "native/warm_child/sources.txt"),
      // Without C++'s library: see native/warm_child/preload.cc.
      flags: ["-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics"],
      libraries: [],
    },
  ];
}

/**
 * Builds the addon and the two libraries beside it into the package's build/Release with a C++ compiler alone: no make, no
 * Python, no network. Existing files are replaced when all new ones are done.
 *
 * @returns the paths of the files.
 * @throws {@link BuildError}
 */
export async function compile(options: CompileOptions = {}): Promise<string[]> {
  const { environment = process.env, signal } = options;
  const root = options.root ?? packageRoot();
  const obstacle = hostObstacle();
  if (obstacle !== undefined) throw new BuildError(obstacle.reason, { hint: obstacle.hint });
  const wanted = targets(root);
  checkPackage(root, wanted);
  const compiler = await findCompiler(environment, signal);
  const release = join(root, "build", "Release");
  await mkdir(release, { recursive: true }).catch((cause) => {
    throw new BuildError(`${release} can't be made: ${cause.message}`, {
      hint: "run it as the owner of the package's folder",
      cause,
    });
  });
  const scratch = await mkdtemp(join(tmpdir(), "tritonode-build-"));
  try {
    const units = wanted.flatMap((target) =>
      readFileSync(target.sources, "utf8")
        .split("\n")
        .filter((line) => line !== "")
        .map((source, index) => ({
          target,
          source,
          object: join(scratch, `${target.file}-${index}-${basename(source)}.o`),
        })),
    );
    const total = units.length + wanted.length;
    let done = 0;
    const step = async (what: string, args: string[]) => {
      // Relative sources: the paths that assert() and error messages carry are then the same everywhere.
      const result = await run(compiler, args, { cwd: root, environment, signal });
      if (result.code !== 0) throw failed(compiler, what, result.stderr, result.signal);
      options.onProgress?.(what, ++done, total);
    };
    const queue = [...units];
    const work = async () => {
      for (let unit = queue.shift(); unit !== undefined; unit = queue.shift()) {
        const { target, source, object } = unit;
        await step(source, [...COMMON, ...target.flags, "-c", source, "-o", object]);
      }
    };
    // All have settled before the objects' folder is removed; after the first failure no further ones start.
    const workers = Array.from({ length: Math.min(availableParallelism(), units.length) }, () =>
      work().catch((error) => {
        queue.length = 0;
        throw error;
      }),
    );
    const broken = (await Promise.allSettled(workers)).find((result) => result.status === "rejected");
    if (broken !== undefined) throw broken.reason;
    for (const target of wanted) {
      const objects = units.filter((unit) => unit.target === target).map((unit) => unit.object);
      const output = join(release, `${target.file}.new`);
      await step(target.file, [...LINK, ...objects, ...target.libraries, "-s", "-o", output]);
    }
    const files = wanted.map(({ file }) => join(release, file));
    // Renamed, not overwritten, so that a process that has mapped the old file keeps it.
    for (const file of files) await rename(`${file}.new`, file);
    return files;
  } finally {
    await rm(scratch, { recursive: true, force: true });
    for (const { file } of wanted) await rm(join(release, `${file}.new`), { force: true });
  }
}

function checkPackage(root: string, wanted: readonly Target[]): void {
  const needed = [...wanted.map(({ sources }) => sources), join(root, "headers/node-addon-api/napi.h")];
  const missing = needed.find((path) => !existsSync(path));
  if (missing !== undefined) {
    throw new BuildError(`${missing} is missing`, {
      hint: "install the package again: npm install tritonode (in a checkout: npm run build)",
    });
  }
  try {
    accessSync(root, constants.W_OK);
  } catch (cause) {
    throw new BuildError(`${root} may not be written by this user`, {
      hint: "run it as the owner of that folder, or install the package where you may write",
      cause,
    });
  }
}

/** `$CXX`, else the first of the usual names that exists and supports C++20. */
async function findCompiler(environment: NodeJS.ProcessEnv, signal: AbortSignal | undefined): Promise<string> {
  const named = environment["CXX"];
  const names = named === undefined || named === "" ? ["c++", "g++", "clang++"] : [named];
  const found = names.map((name) => onPath(name, environment)).filter((path) => path !== undefined);
  if (found.length === 0) {
    const looked = named ? `CXX=${named} is not on PATH` : `none of ${names.join(", ")} is on PATH`;
    throw new BuildError(`there is no C++ compiler: ${looked}`, { hint: GET_COMPILER });
  }
  const refused: string[] = [];
  for (const path of found) {
    const program = join(await mkdtemp(join(tmpdir(), "tritonode-probe-")), "probe");
    try {
      // The test includes a library's header and links, so that a compiler with missing parts fails here, with its own message.
      const probe = ["-std=c++20", "-x", "c++", "-include", "latch", "-shared", "-fPIC", "/dev/null", "-o", program];
      const result = await run(path, probe, { environment, signal });
      if (result.code === 0) return path;
      refused.push(`${path}: ${lastWords(result.stderr)}`);
    } finally {
      await rm(join(program, ".."), { recursive: true, force: true });
    }
  }
  throw new BuildError(`no C++20 compiler that works:\n  ${refused.join("\n  ")}`, { hint: GET_COMPILER });
}

function failed(compiler: string, what: string, stderr: string, signal: NodeJS.Signals | null): BuildError {
  const memory = signal === "SIGKILL" || /Killed|out of memory/i.test(stderr);
  return new BuildError(`${compiler} failed on ${what}: ${signal ?? lastWords(stderr)}`, {
    hint: memory
      ? "the machine ran out of memory: each compiler process takes up to 1 GB"
      : "report it with the compiler's version (c++ --version); TRITONODE_DEBUG=1 shows its whole output",
    cause: new Error(stderr.trim()),
  });
}

/** The first line that is an error, else the last one. */
function lastWords(text: string): string {
  const lines = text.trim().split("\n");
  return lines.find((line) => /error|fatal/i.test(line))?.trim() ?? lines.at(-1) ?? "";
}
