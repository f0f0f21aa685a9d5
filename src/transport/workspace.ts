import { createHash, randomBytes } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { quote } from "../common/shell";
import { InvalidArgumentError } from "../errors";
import type { Runtime } from "../runtime/runtime";
import { layOutChildPython } from "./child-python";

/** The names of all private directories begin with this, and, with `_`, those of all shared-memory regions. */
export const prefix = "tritonode";

/** Triton passes the stub's paths to `bash -c` without quotes: any other character would be split or expanded there. */
const plain = /^[A-Za-z0-9_./@%+=:,-]+$/;

export interface WorkspaceOptions {
  readonly runtime: Runtime;
  /** Backend name → folder with its `model.py`. */
  readonly backends: Readonly<Record<string, string>>;
  /** Environment variables for the children, added to this process's own. */
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/**
 * The server's private directory (mode 0700). It holds what Triton and its children need, so that the host process stays
 * unchanged and the caller's paths may contain any character.
 */
export class Workspace {
  readonly directory: string;
  readonly shmPrefix: string;
  readonly #repositories = new Map<string, string>();

  private constructor(directory: string, shmPrefix: string) {
    this.directory = directory;
    this.shmPrefix = shmPrefix;
  }

  get backends(): string {
    return join(this.directory, "backends");
  }

  /** The repository for models that are given as files instead of a folder. */
  get ownRepository(): string {
    return join(this.directory, "repositories", "own");
  }

  static create(options: WorkspaceOptions): Workspace {
    const directory = makeDirectory(options.runtime.triton.pythonBackend);
    // The region's name goes through `bash -c` too, and shm_open limits it to 255 bytes.
    const workspace = new Workspace(directory, `${prefix}_${process.pid}_${randomBytes(4).toString("hex")}_`);
    try {
      const parts = [
        "backends",
        "backends/python",
        "repositories",
        "repositories/own",
        "children",
        "environment",
        "warm",
        "tmp",
      ];
      for (const name of parts) mkdirSync(join(directory, name));
      workspace.#layOutPythonBackend(options);
      workspace.addBackends(options.backends);
    } catch (error) {
      workspace.remove();
      throw error;
    }
    return workspace;
  }

  /** Opens the workspace that another environment of this process made. */
  static open(directory: string, shmPrefix: string): Workspace {
    return new Workspace(directory, shmPrefix);
  }

  #layOutPythonBackend({ runtime, environment }: WorkspaceOptions): void {
    const source = runtime.triton.pythonBackend;
    const target = join(this.backends, "python");
    for (const name of readdirSync(source)) {
      // Copies, because Triton refuses a library that is a link out of the backend's folder.
      if (name.endsWith(".so") || name.endsWith(".py")) copyFileSync(join(source, name), join(target, name));
    }
    const stub = join(target, "triton_python_backend_stub");
    const bin = layOutChildPython(join(this.directory, "python"), runtime);
    writeFileSync(stub, stubWrapper(runtime, this.directory, this.shmPrefix, environment, bin), { mode: 0o700 });
    chmodSync(stub, 0o700);
  }

  /** Adds the Python-based backends that are not there yet. */
  addBackends(backends: Readonly<Record<string, string>>): void {
    for (const [name, source] of Object.entries(backends)) {
      if (!/^[A-Za-z0-9_-]+$/.test(name)) throw new InvalidArgumentError(`'${name}' cannot be a backend's name`);
      const target = join(this.backends, name);
      if (existsSync(target)) {
        refuseOther(name, target, source);
        continue;
      }
      // Moved into place when it is complete: another environment may do the same at the same time.
      const beside = mkdtempSync(`${target}.`);
      for (const entry of readdirSync(source)) {
        if (entry !== "__pycache__") symlinkSync(join(resolve(source), entry), join(beside, entry));
      }
      try {
        renameSync(beside, target);
      } catch (error) {
        rmSync(beside, { recursive: true, force: true });
        if (!existsSync(target)) throw error;
        refuseOther(name, target, source);
      }
    }
  }

  /** A path without special characters that leads to the caller's model repository. @throws {@link InvalidArgumentError} */
  repository(folder: string): string {
    let real: string;
    try {
      real = realpathSync(folder);
      if (!statSync(real).isDirectory()) throw new Error("not a directory");
    } catch (cause) {
      throw new InvalidArgumentError(`the model repository ${folder} is not a readable directory`, { cause });
    }
    const known = this.#repositories.get(real);
    if (known !== undefined && existsSync(known)) return known;
    // The same for every environment of the process: Triton must not see one folder as two repositories.
    const path = join(this.directory, "repositories", createHash("sha256").update(real).digest("hex").slice(0, 16));
    link(real, path);
    this.#repositories.set(real, path);
    return path;
  }

  /**
   * Writes a model from the caller's files into the library's own repository. Triton accepts them in the load request too, but
   * would leave them in /tmp/folder* after an unclean exit.
   */
  writeModel(name: string, files: Readonly<Record<string, Uint8Array | string>>): void {
    const folder = join(this.ownRepository, name);
    rmSync(folder, { recursive: true, force: true });
    // Triton requires a version folder, even an empty one.
    mkdirSync(join(folder, "1"), { recursive: true });
    for (const [path, content] of Object.entries(files)) {
      const target = join(folder, path);
      if (!target.startsWith(`${folder}/`))
        throw new InvalidArgumentError(`the model file ${path} lies outside its model`);
      mkdirSync(dirname(target), { recursive: true });
      writeFileSync(target, content);
    }
  }

  removeModel(name: string): void {
    rmSync(join(this.ownRepository, name), { recursive: true, force: true });
  }

  /** Variables for one model's children, from its next load on. @throws {@link InvalidArgumentError} */
  setEnvironment(model: string, environment: Readonly<Record<string, string | undefined>>): void {
    const lines = exportLines(environment);
    writeFileSync(join(this.directory, "environment", model), `${lines.join("\n")}\n`, { mode: 0o600 });
  }

  /**
   * Prepares the start of warm children with this environment.
   *
   * @param library - libtritonode_warm.so
   * @param backend - the name of the backend that they import
   * @returns the file that names them
   */
  prepareWarmChild(
    environment: Readonly<Record<string, string | undefined>>,
    library: string,
    backend: string,
  ): string {
    const folder = join(this.directory, "warm");
    // LD_PRELOAD treats spaces and colons as separators; this path has none.
    link(library, join(folder, "preload.so"));
    // As in model.py, because the interpreter decodes paths as ASCII.
    const real = dirname(realpathSync(join(this.backends, backend, "model.py")));
    // biome-ignore lint/suspicious/noControlCharactersInRegex: what is not ASCII
    link(/^[\x00-\x7f]*$/.test(real) ? real : join(this.backends, backend), join(folder, "backend"));
    const lines = exportLines(environment);
    const key = join(folder, createHash("sha256").update(lines.join("\n")).digest("hex").slice(0, 16));
    writeFileSync(key, `${lines.join("\n")}\n`, { mode: 0o600 });
    return key;
  }

  remove(): void {
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** Makes a link, unless it is there. */
function link(target: string, path: string): void {
  try {
    symlinkSync(target, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

/** Triton has one backend for each name, and keeps using the one that it has loaded. @throws {@link InvalidArgumentError} */
function refuseOther(name: string, target: string, source: string): void {
  const model = readlinkSync(join(target, "model.py"));
  if (realpathSync(model) === realpathSync(join(resolve(source), "model.py"))) return;
  throw new InvalidArgumentError(`this process's server has its backend '${name}' from ${dirname(model)}`, {
    hint: `serve all its models with the same backend, or give the one in ${resolve(source)} a process of its own`,
  });
}

/**
 * A folder of mode 0700, under the same name for each server of this process that has the same Python backend: the dynamic
 * loader identifies a library by its path, and would map another copy of one at another path. It is never unmapped.
 */
function makeDirectory(pythonBackend: string): string {
  const started = readFileSync("/proc/self/stat", "latin1").replace(/^.*\)/, "").split(" ")[20];
  const { mtimeMs } = statSync(join(pythonBackend, "libtriton_python.so"));
  const tag = createHash("sha256").update(`${started} ${pythonBackend} ${mtimeMs}`).digest("hex").slice(0, 6);
  const start = join(temporaryDirectory(), `${prefix}-${process.pid}-`);
  try {
    mkdirSync(start + tag, { mode: 0o700 });
    return start + tag;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    // It belongs to another process, or to a server that could not be stopped.
    return mkdtempSync(start);
  }
}

/** os.tmpdir(), or /tmp if its path would not survive `bash -c`. */
export function temporaryDirectory(): string {
  const usual = tmpdir();
  return plain.test(usual) ? usual : "/tmp";
}

/** Lines of a shell script that set or (undefined) unset variables. @throws {@link InvalidArgumentError} */
function exportLines(environment: Readonly<Record<string, string | undefined>>): string[] {
  return Object.entries(environment).map(([name, value]) => {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      throw new InvalidArgumentError(`'${name}' cannot be an environment variable's name`);
    }
    if (value !== undefined && (typeof value !== "string" || value.includes("\0"))) {
      throw new InvalidArgumentError(`the environment variable ${name} must be a string without NUL`);
    }
    return value === undefined ? `unset ${name}` : `export ${name}=${quote(value)}`;
  });
}

/**
 * The script that Triton starts in place of the stub. It sets up the child, and only the child, and becomes the stub.
 *
 * Triton 24.10 first runs the stub without arguments and expects exit code 1. The stub itself would need the
 * start of a Python for that, so the wrapper exits with the code instead.
 */
function stubWrapper(
  runtime: Runtime,
  directory: string,
  shmPrefix: string,
  environment: Readonly<Record<string, string | undefined>>,
  bin: string | undefined,
): string {
  const lines = [
    "#!/bin/sh",
    "[ $# -eq 0 ] && exit 1",
    `directory=${quote(directory)}`,
    // Opened for reading and writing, so that it never waits for a reader. If the host is gone, the FIFO is too.
    'exec </dev/null 1<>"$directory/log" 2>&1 || exit 1',
    // A child without a model (native/process/warm_children.cc): `--warm <file with its environment> <room>`.
    'warm= room= && [ "$1" = --warm ] && warm=$2 && room=$3',
    // Written under another name and then renamed: the host must not read half a file.
    '[ -n "$warm" ] || { printf "%s\\n" "$@" >"$directory/children/.$$" && mv "$directory/children/.$$" "$directory/children/$$"; }',
    // The host reports a crash. A core dump would take several GiB and delay the exit.
    "ulimit -c 0",
    // glibc gives each thread its own arena, and short streams on many threads fragment all of them: see the soak test in
    // docs/reference/reliability.md.
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
    'export MALLOC_ARENA_MAX="${MALLOC_ARENA_MAX:-2}"',
    "unset PYTHONHOME PYTHONPATH",
    `export PATH=${quote(dirname(runtime.python))}"\${PATH:+:$PATH}"`,
    // A model with a file of its own; the files of a backend lie elsewhere and may be cached there.
    ...(bin === undefined ? [] : [`[ -f "$1" ] && export PATH=${quote(bin)}":$PATH"`]),
    `export LD_LIBRARY_PATH=${quote(runtime.libpythonDirectory)}"\${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"`,
    `export TRITONODE_PRIVATE_DIR=${quote(directory)}`,
    `export TRITONODE_SHM_PREFIX=${quote(shmPrefix)}`,
    // vLLM and torch leave temporary files. These are deleted with the private directory.
    'export TMPDIR="$directory/tmp"',
  ];
  lines.push(
    ...exportLines(environment),
    // The first argument is <repository>/<model>/<version>/model.py.
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's, not JavaScript's
    "model=${1%/*/*} && model=${model##*/}",
    'settings="$directory/environment/$model" && [ -n "$warm" ] && settings=$warm',
    '[ -f "$settings" ] && . "$settings"',
    // Descriptors 3 and 4: see native/warm_child/preload.cc.
    'if [ -n "$warm" ]; then',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
    '  export TRITONODE_WARM="3 4 $(readlink "$directory/warm/backend")" TRITONODE_WARM_PRELOAD="${LD_PRELOAD-}"',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: the shell's
    '  export LD_PRELOAD="$directory/warm/preload.so${LD_PRELOAD:+:$LD_PRELOAD}"',
    '  set -- "$room"',
    "fi",
  );
  // A session of its own: a Ctrl-C in the terminal is the host's to handle, and the whole group can be ended at once.
  // setsid forks only where it leads a process group already, which a child of Triton never does.
  lines.push(
    `stub=${quote(runtime.triton.stub)}`,
    'command -v setsid >/dev/null 2>&1 && exec setsid "$stub" "$@"',
    'exec "$stub" "$@"',
    "",
  );
  return lines.join("\n");
}
