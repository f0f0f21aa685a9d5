import { existsSync } from "node:fs";
import { delimiter, isAbsolute, join, resolve } from "node:path";
import { namesIn } from "../../common/files";
import { shellWord } from "../../common/shell";
import { PythonNotFoundError } from "../errors";
import { PYTHON_VERSIONS } from "../packages/requirements";
import { run } from "../process";

/** A usable Python: supported version, a shared libpython, able to make a virtual environment with pip. */
export interface Python {
  /** Absolute path of the interpreter that was run: perhaps a link, a pyenv shim, or a virtual environment's. */
  executable: string;
  /** The installation's interpreter behind it, with links resolved. */
  base: string;
  /** e.g. `"3.11.7"`. */
  fullVersion: string;
  /** e.g. `"3.11"`. */
  version: string;
  /** Folder of `libpython3.X.so.1.0`. */
  libpythonDirectory: string;
}

export interface FindPythonOptions {
  /** The caller's choice: a path, or a name on PATH. Then no other interpreter is considered. */
  python?: string | undefined;
  /** Restricts the version (an installed Triton's stub is built for only one). */
  version?: string | undefined;
  /** Allowed versions, best first. Default: {@link PYTHON_VERSIONS}. */
  accepted?: readonly string[] | undefined;
  environment?: NodeJS.ProcessEnv;
  signal?: AbortSignal | undefined;
}

/** What an interpreter reports about itself. */
export interface PythonFacts {
  version: [number, number, number];
  implementation: string;
  bits: number;
  base: string;
  /** File name of the shared library that an embedding program needs, from sysconfig. */
  soname: string | null;
  libraryDirectories: (string | null)[];
  venv: boolean;
  ensurepip: boolean;
  /** The conda environment that it belongs to. */
  conda: string | null;
}

const PROBE = `
import importlib.util, json, os, struct, sys, sysconfig
var = sysconfig.get_config_var
prefix = getattr(sys, "base_prefix", sys.prefix)
libdir = var("LIBDIR")
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "implementation": sys.implementation.name,
    "bits": struct.calcsize("P") * 8,
    "base": os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable),
    "soname": "libpython%d.%d%s.so.1.0" % (sys.version_info[0], sys.version_info[1], getattr(sys, "abiflags", "")),
    "libraryDirectories": [libdir, os.path.join(libdir, var("MULTIARCH") or "") if libdir else None,
                           os.path.join(prefix, "lib"), os.path.join(prefix, "lib64"), var("LIBPL")],
    "venv": importlib.util.find_spec("venv") is not None,
    "ensurepip": importlib.util.find_spec("ensurepip") is not None,
    "conda": prefix if os.path.isdir(os.path.join(prefix, "conda-meta")) else None,
}))
`;

/** An interpreter that hangs (a broken shim, a dead network mount) must not stop the search. */
const PROBE_TIMEOUT_MS = 20_000;

/**
 * Finds a Python of a supported version with a shared libpython: on PATH by version, then `python3`, then pyenv's versions,
 * then the usual folders. Among several, the order of {@link PYTHON_VERSIONS} decides: the version that is tested most comes
 * first.
 *
 * @throws {@link PythonNotFoundError} saying what each candidate lacks and which package to install.
 */
export async function findPython(options: FindPythonOptions = {}): Promise<Python> {
  const environment = options.environment ?? process.env;
  const accepted = options.version === undefined ? (options.accepted ?? PYTHON_VERSIONS) : [options.version];
  if (options.python !== undefined) {
    const executable = onPath(options.python, environment) ?? resolve(options.python);
    const looked = await probe(executable, environment, options.signal);
    const judged = judge(executable, looked, accepted);
    if (typeof judged !== "string") return judged;
    throw new PythonNotFoundError(`${options.python}: ${judged}`, {
      hint: howToGet(accepted, typeof looked === "string" ? undefined : looked),
    });
  }
  const refused = new Map<string, string>();
  const others: Python[] = [];
  // the best version is used as soon as it is found; the others only if no candidate has it
  for (const executable of candidates(environment, accepted)) {
    const judged = judge(executable, await probe(executable, environment, options.signal), accepted);
    if (typeof judged === "string") refused.set(executable, judged);
    else if (judged.version === accepted[0]) return judged;
    else others.push(judged);
  }
  const best = others.sort((a, b) => accepted.indexOf(a.version) - accepted.indexOf(b.version))[0];
  if (best !== undefined) return best;
  const list = [...refused].map(([path, reason]) => `\n  ${path}: ${reason}`).join("");
  throw new PythonNotFoundError(
    `no Python ${accepted.join(" or ")} with a shared libpython was found${list === "" ? "" : `; looked at:${list}`}`,
    { hint: howToGet(accepted) },
  );
}

/** The candidates, best first, each once. */
export function candidates(environment: NodeJS.ProcessEnv, versions: readonly string[] = PYTHON_VERSIONS): string[] {
  const found: string[] = [];
  for (const version of versions) add(onPath(`python${version}`, environment));
  add(onPath("python3", environment));
  add(onPath("python", environment));
  const home = environment.HOME ?? "";
  const pyenv = environment.PYENV_ROOT || join(home, ".pyenv");
  const managed = [join(pyenv, "versions"), join(home, ".local", "share", "uv", "python")];
  for (const folder of managed) {
    for (const version of versions) {
      const names = namesIn(folder)
        .filter((name) => name.replace(/^cpython-/, "").startsWith(`${version}.`))
        .sort((a, b) => b.localeCompare(a, "en", { numeric: true }));
      for (const name of names) add(join(folder, name, "bin", `python${version}`));
    }
  }
  for (const folder of ["/usr/local/bin", "/usr/bin"]) {
    for (const version of versions) add(join(folder, `python${version}`));
  }
  return found;

  function add(path: string | undefined): void {
    if (path !== undefined && existsSync(path) && !found.includes(path)) found.push(path);
  }
}

/** Checks whether an interpreter is usable, and says why not. */
export function judge(
  executable: string,
  facts: PythonFacts | string,
  accepted: readonly string[] = PYTHON_VERSIONS,
): Python | string {
  if (typeof facts === "string") return facts;
  const version = `${facts.version[0]}.${facts.version[1]}`;
  if (facts.implementation !== "cpython") return `is ${facts.implementation}, not CPython`;
  if (!accepted.includes(version)) return `is Python ${facts.version.join(".")}, not ${accepted.join(" or ")}`;
  if (facts.bits !== 64) return `is a ${facts.bits}-bit Python`;
  const directory = sharedLibrary(facts);
  if (directory === undefined) {
    return `has no ${facts.soname} (statically linked: it can't be embedded in Triton's stub)`;
  }
  if (!facts.venv || !facts.ensurepip) return "has no venv module with pip (ensurepip)";
  return { executable, base: facts.base, fullVersion: facts.version.join("."), version, libpythonDirectory: directory };
}

/** The folder of its shared library, if it has one. */
function sharedLibrary({ libraryDirectories, soname }: PythonFacts): string | undefined {
  const isThere = (folder: string | null) => folder !== null && soname !== null && existsSync(join(folder, soname));
  return libraryDirectories.find(isThere) ?? undefined;
}

/** Runs the interpreter and reads what it reports. A string says why it did not answer. */
async function probe(
  executable: string,
  environment: NodeJS.ProcessEnv,
  signal: AbortSignal | undefined,
): Promise<PythonFacts | string> {
  if (!existsSync(executable)) return "there is no such file";
  try {
    // -I: neither PYTHON* variables nor the current folder may change what it says
    const result = await run(executable, ["-I", "-c", PROBE], {
      environment,
      signal,
      timeout: PROBE_TIMEOUT_MS,
    });
    if (result.timedOut) return `did not answer within ${PROBE_TIMEOUT_MS / 1000} s`;
    if (result.code === 0) return JSON.parse(result.stdout) as PythonFacts;
    const reason = result.stderr.trim().split("\n")[0] ?? "";
    return `does not run (${result.signal ?? `exit code ${result.code}`}${reason === "" ? "" : `: ${reason}`})`;
  } catch (error) {
    if (signal?.aborted) throw error;
    return `does not run (${(error as Error).message})`;
  }
}

/**
 * How to install a usable Python with this system's package manager.
 *
 * @param found what was found, if only a part of it is missing: that part is named
 */
export function howToGet(versions: readonly string[], found?: PythonFacts): string {
  const own = found?.implementation === "cpython" && found.bits === 64 ? found.version.slice(0, 2).join(".") : "";
  const isPart = versions.includes(own);
  const version = isPart ? own : (versions[0] ?? PYTHON_VERSIONS[0]);
  const others = `or name another Python (${versions.join(" or ")}) with --python`;
  if (typeof found?.conda === "string") {
    return `conda install --prefix ${shellWord(found.conda)} python=${version}; ${others}`;
  }
  if (isPart && found?.ensurepip === false && sharedLibrary(found) !== undefined) {
    return `apt-get install python${version}-venv; ${others}`;
  }
  const debian = isPart
    ? `libpython${version} python${version}-venv`
    : `python${version} libpython${version} python${version}-venv`;
  return (
    `Debian and Ubuntu: apt-get install ${debian}; ` +
    `Fedora: dnf install python${version} python${version}-libs; ` +
    `pyenv: PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install ${version}; ${others}`
  );
}

/** The first executable of that name on PATH; a name with a slash is a path already. */
export function onPath(name: string, environment: NodeJS.ProcessEnv): string | undefined {
  if (name.includes("/")) return isAbsolute(name) ? name : resolve(name);
  for (const folder of (environment.PATH ?? "").split(delimiter)) {
    if (folder !== "" && existsSync(join(folder, name))) return join(folder, name);
  }
  return undefined;
}
