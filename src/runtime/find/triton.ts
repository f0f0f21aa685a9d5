import { existsSync, readFileSync, realpathSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";
import { namesIn } from "../../common/files";
import { RuntimeMissingError } from "../../errors";
import { TRITON_WHEEL_VERSION } from "../packages/requirements";
import type { TritonFiles } from "../runtime";

/**
 * Finds the parts of Triton that the nvidia-pytriton wheel put into `sitePackages`. The libraries carry a hash in
 * their names (`libtritonserver-717102f0.so`), so they have to be looked up.
 *
 * @param pythonVersion - major.minor, which selects the stub
 * @throws {@link RuntimeMissingError} (`ERR_RUNTIME_BROKEN`) naming the missing part.
 */
export function tritonOfWheel(sitePackages: string, pythonVersion: string): TritonFiles {
  const dependencyDirectory = join(sitePackages, "nvidia_pytriton.libs");
  const name = namesIn(dependencyDirectory).find((file) => /^libtritonserver.*\.so(\.\d+)*$/.test(file));
  const root = join(sitePackages, "pytriton", "tritonserver");
  const server = join(root, "bin", "tritonserver");
  return checked({
    version: TRITON_WHEEL_VERSION,
    library: join(dependencyDirectory, name ?? "libtritonserver.so"),
    dependencyDirectory,
    pythonBackend: join(root, "backends", "python"),
    stub: join(root, "python_backend_stubs", pythonVersion, "triton_python_backend_stub"),
    server: existsSync(server) ? server : undefined,
  });
}

/** The oldest Triton that can be used: 24.10, which this package is tested with. */
const OLDEST: readonly [number, number] = [2, 51];

/** Its folder in NVIDIA's containers. */
const CONTAINER = "/opt/tritonserver";

/**
 * The folder of a Triton that is installed on this machine: of the `tritonserver` on PATH, else `/opt/tritonserver`. Only
 * one with all its parts counts, because a tritonserver without the Python backend is not usable here.
 */
export function systemTriton(environment: NodeJS.ProcessEnv = process.env): string | undefined {
  const folders = (environment.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  const program = folders.map((folder) => join(folder, "tritonserver")).find((path) => existsSync(path));
  const found = program === undefined ? [] : [dirname(dirname(realpathSync(program)))];
  return [...found, CONTAINER].find((folder) => {
    try {
      tritonOfDirectory(folder);
      return true;
    } catch {
      return false;
    }
  });
}

/**
 * The parts of a Triton that is installed as in NGC's containers (`/opt/tritonserver`): `lib`, `backends/python`,
 * `bin`, and its version in `TRITON_VERSION`.
 *
 * @throws {@link RuntimeMissingError} (`ERR_RUNTIME_BROKEN`) naming the missing part, or the version that is too old.
 */
export function tritonOfDirectory(directory: string): TritonFiles {
  const root = resolve(directory);
  const server = join(root, "bin", "tritonserver");
  const pythonBackend = join(root, "backends", "python");
  const versionFile = join(root, "TRITON_VERSION");
  const version = existsSync(versionFile) ? readFileSync(versionFile, "utf8").trim() : "unknown";
  // The server reports its version when it starts, so a folder without this file is accepted.
  const [major = 0, minor = 0] = (/^(\d+)\.(\d+)/.exec(version) ?? []).slice(1).map(Number);
  if (version !== "unknown" && (major < OLDEST[0] || (major === OLDEST[0] && minor < OLDEST[1]))) {
    throw new RuntimeMissingError(
      `the Triton in ${root} is ${version}, and 2.51 (24.10) is the oldest that can be used`,
      {
        code: "ERR_RUNTIME_BROKEN",
        hint: "use a newer container, or the Triton from PyPI: npx tritonode setup --triton none",
      },
    );
  }
  const files = {
    version,
    library: join(root, "lib", "libtritonserver.so"),
    dependencyDirectory: undefined,
    pythonBackend,
    stub: join(pythonBackend, "triton_python_backend_stub"),
    server: existsSync(server) ? server : undefined,
  };
  return checked(files, "name another installed Triton, or use the one from PyPI: npx tritonode setup --triton none");
}

/** The Python version (major.minor) that a stub is linked against, read from the library name in its ELF strings. */
export function stubPythonVersion(stub: string): string | undefined {
  return /libpython(3\.\d+)[a-z]*\.so/.exec(readFileSync(stub, "latin1"))?.[1];
}

/**
 * Whether a stub can read numpy 2's arrays. pybind11 can since 2.12, which knows the package's new name; an older one
 * treats them as arrays without strides, so that every text arrives corrupt.
 */
export function readsNumpy2(stub: string): boolean {
  return readFileSync(stub, "latin1").includes("numpy._core");
}

/** `<venv>/lib/python3.X/site-packages`. */
export function sitePackages(venv: string, pythonVersion: string): string {
  return join(venv, "lib", `python${pythonVersion}`, "site-packages");
}

function checked(files: TritonFiles, hint?: string): TritonFiles {
  const parts: [string, string][] = [
    ["libtritonserver", files.library],
    ["Triton's Python backend", join(files.pythonBackend, "libtriton_python.so")],
    ["the Python backend's stub", files.stub],
  ];
  for (const [what, path] of parts) {
    if (!existsSync(path)) {
      throw new RuntimeMissingError(`${what} is not there: ${path}`, {
        code: "ERR_RUNTIME_BROKEN",
        ...(hint === undefined ? {} : { hint }),
      });
    }
  }
  // Triton hands paths to its children, and links are resolved against their $ORIGIN, so the real path is used
  return { ...files, library: realpathSync(files.library) };
}
