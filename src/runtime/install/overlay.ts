import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { SetupError } from "../errors";
import { findInstalled, type Installed, type InstalledPackages } from "../find/installed";
import { readsNumpy2, sitePackages, stubPythonVersion, tritonOfDirectory } from "../find/triton";
import { digest, NUMPY, SUPPORTED_VLLM, TRITON } from "../packages/requirements";
import type { Device } from "../runtime";

/** The file in the venv's site-packages that brings the other environment's packages in. */
const LINK = "tritonode-installed.pth";

/** Allows every version of vLLM; the backend reads it too (backends/vllm/tritonode/vllm/versions.py). */
const ALLOW_VARIABLE = "TRITONODE_ALLOW_VLLM";

/**
 * What a runtime adds to installed packages: Triton, unless an installed one is used, and a numpy that Triton's stub can
 * read, if the other environment has a newer one.
 *
 * @param installedTriton - folder of the installed Triton to use; undefined: the wheel
 */
export function overlayPins(installed: InstalledPackages, installedTriton: string | undefined): string[] {
  const pins = installedTriton === undefined ? [TRITON] : [];
  const old = installedTriton === undefined || !readsNumpy2(tritonOfDirectory(installedTriton).stub);
  const fits = installed.numpy !== undefined && (!old || installed.numpy.startsWith("1."));
  return fits ? pins : [...pins, NUMPY];
}

/** Identifies what such a runtime consists of, apart from the other environment. */
export function overlayDigest(pins: readonly string[]): string {
  return digest(["--use-installed", ...pins]);
}

/**
 * @throws {@link SetupError} `ERR_VLLM_VERSION` for a version of vLLM that the backend does not support, unless every version
 *   is allowed.
 */
export function checkVllm(installed: Installed, environment: NodeJS.ProcessEnv = process.env): void {
  const [major = 0, minor = 0] = (/^(\d+)\.(\d+)/.exec(installed.vllm) ?? []).slice(1).map(Number);
  const known = major === 0 && minor >= SUPPORTED_VLLM.first && minor <= SUPPORTED_VLLM.last;
  if (known || environment[ALLOW_VARIABLE] === "1") return;
  throw new SetupError(
    `${installed.python} has vLLM ${installed.vllm}, and tritonode is tested with 0.${SUPPORTED_VLLM.first} to 0.${SUPPORTED_VLLM.last}`,
    {
      code: "ERR_VLLM_VERSION",
      hint: `install one of these there, leave out --use-installed, or set ${ALLOW_VARIABLE}=1 to try this one`,
    },
  );
}

/**
 * The environment that a runtime will use, checked against the other options.
 *
 * @throws as {@link findInstalled} and {@link checkVllm}; {@link SetupError} `ERR_SETUP_INSTALLED` for the other device.
 */
export async function installedEnvironment(options: {
  python?: string | undefined;
  triton?: string | undefined;
  device?: Device | undefined;
  signal?: AbortSignal | undefined;
}): Promise<Installed> {
  const { triton } = options;
  const named = triton === undefined || triton === "none" ? undefined : tritonOfDirectory(triton).stub;
  const version = named === undefined ? undefined : stubPythonVersion(named);
  const installed = await findInstalled({ python: options.python, version, signal: options.signal });
  checkVllm(installed);
  if (options.device !== undefined && options.device !== installed.device) {
    throw new SetupError(
      `the vLLM ${installed.vllm} of ${installed.python} is for ${installed.device}, not for ${options.device}`,
      {
        code: "ERR_SETUP_INSTALLED",
        hint: `leave out --device, or name a Python whose vLLM is for ${options.device}`,
      },
    );
  }
  return installed;
}

/** The folder in the venv with the compiled modules of an environment that has none. */
const COMPILED = "compiled";

/**
 * Makes the other environment's packages available in a venv, after the venv's own, which take precedence.
 * `addsitedir` also follows their own .pth files (an editable install of vLLM is one). No interpreter of the venv writes
 * compiled files among theirs: none at all where theirs are compiled; else (uv compiles nothing) into a folder of the
 * venv, because to compile vLLM and torch at each load takes longer than to import them.
 *
 * @returns the folders whose modules are to be compiled now
 */
export async function linkInstalled(venv: string, installed: Installed): Promise<readonly string[]> {
  const compiled = isCompiled(installed);
  const first = compiled
    ? "import sys; sys.dont_write_bytecode = True\n"
    : `import sys; sys.pycache_prefix = ${pythonText(join(venv, COMPILED))}\n`;
  const lines = installed.sitePackages.map((folder) => `import site; site.addsitedir(${pythonText(folder)})\n`);
  await writeFile(join(sitePackages(venv, installed.interpreter.version), LINK), [first, ...lines].join(""));
  return compiled ? [] : installed.sitePackages;
}

/** Whether an environment's packages were compiled when they were installed, as pip does, or later. */
function isCompiled({ sitePackages: folders, interpreter: { version } }: Installed): boolean {
  const file = `__init__.cpython-${version.replace(".", "")}.pyc`;
  return ["torch", "vllm"].every((name) =>
    folders.some((folder) => existsSync(join(folder, name, "__pycache__", file))),
  );
}

/** A string literal of Python, in ASCII: .pth files are read in the locale's encoding. */
function pythonText(text: string): string {
  return JSON.stringify(text).replace(
    /[^\x20-\x7e]/g,
    (each) => `\\u${each.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
