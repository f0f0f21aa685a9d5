import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { sitePackages } from "../runtime/find/triton";
import type { Runtime } from "../runtime/runtime";

/**
 * Makes a virtual environment with the runtime's packages in which Python writes no `__pycache__`: Triton takes a new
 * file in a model's folder as a change of the model, and would load the model again with the next ensemble that uses it.
 *
 * The stub's Python is isolated and ignores the environment variable for this. It reads the pyvenv.cfg next to the first
 * python3 on PATH, and the .pth files of that environment.
 *
 * @returns the folder to put first on the child's PATH, or undefined if the runtime's Python is not in a virtual environment
 */
export function layOutChildPython(directory: string, runtime: Runtime): string | undefined {
  const venv = dirname(dirname(runtime.python));
  const settings = join(venv, "pyvenv.cfg");
  if (!existsSync(settings)) return undefined;
  const bin = join(directory, "bin");
  const packages = sitePackages(directory, runtime.pythonVersion);
  mkdirSync(bin, { recursive: true });
  mkdirSync(packages, { recursive: true });
  for (const name of ["python", "python3"]) symlinkSync(runtime.python, join(bin, name));
  writeFileSync(join(directory, "pyvenv.cfg"), readFileSync(settings));
  const shared = JSON.stringify(sitePackages(venv, runtime.pythonVersion));
  // On one line, because `site` runs lines that begin with "import".
  writeFileSync(
    join(packages, "tritonode.pth"),
    `import site, sys; sys.dont_write_bytecode = True; site.addsitedir(${shared})\n`,
  );
  return bin;
}
