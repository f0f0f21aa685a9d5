import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, realpath, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { checkNames } from "../../common/unknown";
import { RuntimeMissingError, TritonodeError } from "../../errors";
import { hostObstacle } from "../../host";
import { SetupCancelledError, SetupError } from "../errors";
import { gpuFlaw } from "../find/gpu";
import type { Installed } from "../find/installed";
import {
  checkFiles,
  hasManifest,
  type Manifest,
  packed,
  readManifest,
  removeManifest,
  toRuntime,
  writeManifest,
} from "../find/manifest";
import { checkDevice, checkExtras } from "../find/options";
import { defaultDirectory, makeDirectories, namedDirectory, packageVersion } from "../find/paths";
import { findPython, type Python } from "../find/python";
import { stubPythonVersion, systemTriton, tritonOfDirectory } from "../find/triton";
import { baseDigest, digest, type Extra, extraPins, isExtra } from "../packages/requirements";
import type { Device, Runtime } from "../runtime";
import { openBundle, requireBundle } from "./bundle";
import { contentsOf, MARKER, SCRATCH } from "./contents";
import { installInto, recorded } from "./install";
import { chooseInstaller, type Installer } from "./installer";
import { acquireLock } from "./lock";
import { installedEnvironment, overlayDigest, overlayPins } from "./overlay";
import { allPins, describePlan, type SetupPlan, torchIndexes } from "./plan";
import { formatBytes, type OnSetupProgress } from "./progress";
import { remember } from "./remove";

/** Options of {@link setup}: those of `npx tritonode setup`. */
export interface SetupOptions {
  /** Default: `cuda` if an NVIDIA driver and a GPU are found, else `cpu`. */
  device?: Device | undefined;
  /** The runtime's own folder; default `$TRITONODE_RUNTIME_DIR`, else `<data dir>/tritonode/<version>-<device>`. */
  directory?: string | undefined;
  /** The Python to build with: a path or a name on PATH. Default: the best one found. */
  python?: string | undefined;
  /**
   * Use the torch and the vLLM of `python` (default: the active environment's `python3`), and add only what is
   * missing, in the runtime's own virtual environment. The other environment is not changed.
   */
  useInstalled?: boolean | undefined;
  /** A bundle made by `bundle()`. Then nothing is downloaded. */
  offline?: string | undefined;
  /**
   * An installed Triton to use, or `none` for the one in the nvidia-pytriton wheel. Default: the Triton of the `tritonserver` on
   * PATH, else `/opt/tritonserver`, else the wheel.
   */
  triton?: string | undefined;
  /** The package index for torch, instead of the user's own and of PyTorch's CPU index. */
  torchIndex?: string | undefined;
  /**
   * Further packages: `vision`, `full` (all that a small runtime leaves out), `portable` (vLLM's kernels for every
   * processor), `test`, `demo`. Packages of an earlier run stay installed.
   */
  extras?: readonly string[] | undefined;
  /**
   * `uv` or `pip`. Default: `$TRITONODE_INSTALLER`, else uv if it is on PATH and finds everything that pip would, else pip.
   */
  installer?: string | undefined;
  /**
   * Aborting it stops the current step; the promise rejects with {@link SetupCancelledError}. Setup can be run again.
   */
  signal?: AbortSignal | undefined;
  /** Called at each step and, while a package is downloaded, as bytes arrive. */
  onProgress?: OnSetupProgress | undefined;
  /** Called once, before anything is created or downloaded; not called if the runtime is complete. */
  onPlan?: ((plan: SetupPlan) => void) | undefined;
}

/**
 * Bytes that an install needs at its peak (wheels and their contents): measured for the CPU, added up for CUDA.
 */
const SPACE = { cpu: 3e9, cpuFull: 5e9, cuda: 16e9 } as const;
const OVERLAY_SPACE = 0.6e9;

/**
 * Makes the runtime, or updates it; returns at once if it is complete already. It may be interrupted at any
 * point and run again. If two run at once, the second waits for the first. The manifest is written last: until then
 * `findRuntime` finds nothing.
 *
 * ```ts
 * const runtime = await setup({ device: "cpu", onProgress: ({ message }) => console.log(message) });
 * const model = await VllmModel.load({ engine: { model: "./my-model" }, runtime });
 * ```
 *
 * @throws {@link SetupError} and its subclasses, {@link PythonNotFoundError}, {@link InvalidArgumentError}.
 */
export async function setup(options: SetupOptions = {}): Promise<Runtime> {
  checkNames("setup", options, setupOptions);
  const { device, extras, directory, installed } = await checked(options);
  const report = options.onProgress ?? (() => {});
  await makeDirectories(directory).catch((cause) => {
    throw new SetupError(`${directory} can't be made: ${(cause as Error).message}`, {
      hint: "choose another place with --dir",
      cause,
    });
  });
  await refuseForeign(directory);
  const lock = await acquireLock(directory, {
    signal: options.signal,
    onWait: (pid) => report({ phase: "wait", message: `waiting for another setup of ${directory} (process ${pid})` }),
  });
  try {
    const task = await examine({ directory, device, asked: extras, installed, options, report });
    if (task.plan.action === "none" && task.present !== undefined) {
      report({ phase: "done", message: `the runtime in ${directory} is complete` });
      return toRuntime(directory, task.present);
    }
    options.onPlan?.(task.plan);
    return await build({ ...task, directory, device, options, report, setChild: lock.setChild });
  } catch (error) {
    throw explained(error, options.signal);
  } finally {
    await lock.release();
  }
}

const setupOptions = Object.keys({
  device: true,
  directory: true,
  python: true,
  useInstalled: true,
  offline: true,
  triton: true,
  torchIndex: true,
  extras: true,
  installer: true,
  signal: true,
  onProgress: true,
  onPlan: true,
} satisfies Record<keyof SetupOptions, true>);

/**
 * Tells what `setup` would do with these options. Creates nothing, installs nothing and does not wait for a lock; it may ask the
 * package index whether uv finds what is needed.
 *
 * @throws as {@link setup}, for what can be known beforehand: no suitable Python, a folder of other files, no uv.
 */
export async function planSetup(options: SetupOptions = {}): Promise<SetupPlan> {
  const { device, extras, directory, installed } = await checked(options);
  try {
    await refuseForeign(directory);
    const report = options.onProgress ?? (() => {});
    return (await examine({ directory, device, asked: extras, installed, options, report })).plan;
  } catch (error) {
    throw explained(error, options.signal);
  }
}

interface Checked {
  device: Device;
  extras: Extra[];
  directory: string;
  installed: Installed | undefined;
}

async function checked(options: SetupOptions): Promise<Checked> {
  if (options.device !== undefined) checkDevice(options.device);
  const extras = checkExtras(options.extras ?? []);
  checkPlatform();
  const installed = options.useInstalled ? await installedEnvironment(options) : undefined;
  const device = options.device ?? installed?.device ?? (gpuFlaw() === undefined ? "cuda" : "cpu");
  return { device, extras, directory: namedDirectory(options.directory) ?? defaultDirectory(device), installed };
}

/** What has to be done, and with what. */
interface Task {
  plan: SetupPlan;
  extras: Extra[];
  /** The valid manifest to add extras to; undefined: start from scratch. */
  present: Manifest | undefined;
  python: Python | undefined;
  installed: Installed | undefined;
  installedTriton: string | undefined;
}

interface Examination {
  directory: string;
  device: Device;
  asked: readonly Extra[];
  installed: Installed | undefined;
  options: SetupOptions;
  report: OnSetupProgress;
}

async function examine({ directory, device, asked, installed, options, report }: Examination): Promise<Task> {
  const { signal, offline, torchIndex } = options;
  const found = await complete(directory, device, installed, options);
  const have = found === undefined ? [] : Object.keys(found.extras).filter(isExtra);
  const extras = [...new Set([...have, ...asked])].sort();
  const present = found === undefined || mustGrow(found, asked) ? undefined : found;
  const installedTriton = await chosenTriton(options, present, installed?.interpreter);
  const done = present !== undefined && asked.every((name) => has(present, name));
  const action = done ? "none" : present === undefined ? "install" : "extras";
  // Before the search for a Python and the plan, which would both look as if the bundle were there.
  if (action !== "none" && offline !== undefined) requireBundle(offline);
  let python: Python | undefined;
  let installer: Installer | undefined;
  const pins = installed === undefined ? undefined : overlayPins(installed, installedTriton);
  if (action === "install" && installed !== undefined) {
    python = installed.interpreter;
    report({ phase: "python", message: `vLLM ${installed.vllm}, torch ${installed.torch}: ${installed.python}` });
  } else if (action === "install") {
    const version =
      installedTriton === undefined ? undefined : stubPythonVersion(tritonOfDirectory(installedTriton).stub);
    report({ phase: "python", message: "looking for a Python" });
    python = await findPython({ python: options.python, version, signal });
    report({ phase: "python", message: `Python ${python.fullVersion}: ${python.executable}` });
  }
  if (action !== "none") {
    installer = await chooseInstaller({
      installer: pins === undefined ? options.installer : "pip",
      python: python?.base ?? present?.python.base ?? "",
      pins: pins ?? allPins(device, extras, installedTriton === undefined),
      torchIndexes: torchIndexes(device, torchIndex),
      offline,
      environment: process.env,
      signal,
    });
    if (pins !== undefined) installer.reason = "only pip installs a package that another environment has too";
  }
  const triton = installedTriton ?? present?.triton.installed;
  const plan = await describePlan({
    directory,
    device,
    action,
    extras,
    python,
    installer,
    triton,
    torchIndex,
    offline,
    installed: installed === undefined || pins === undefined ? undefined : { python: installed.python, pins },
  });
  return { plan, extras, present, python, installed, installedTriton };
}

/** The folder of the installed Triton to use; undefined: the wheel's. A runtime keeps the Triton that it was made with. */
async function chosenTriton(
  options: SetupOptions,
  present: Manifest | undefined,
  python: Python | undefined,
): Promise<string | undefined> {
  const named = options.triton ?? (present === undefined ? systemTriton() : undefined);
  if (named !== undefined && options.triton === undefined && python !== undefined) {
    // A Triton that was found by itself is used only if it works with the Python that the user has named.
    if (stubPythonVersion(tritonOfDirectory(named).stub) !== python.version) return undefined;
  }
  return named === undefined || named === "none" ? undefined : await realpath(named).catch(() => named);
}

/** Whether a runtime has the packages of an extra. */
function has(manifest: Manifest, name: Extra): boolean {
  const brought = manifest.extras[name] === digest(extraPins(name, manifest.device));
  return brought || (manifest.leftOut === undefined && (name === "full" || name === "portable" || name === "vision"));
}

/** Whether files are requested that were removed from a runtime: then it is made again, with the extras that it had. */
function mustGrow({ leftOut }: Manifest, asked: readonly Extra[]): boolean {
  if (leftOut === undefined) return false;
  return asked.includes("full") || (asked.includes("portable") && leftOut.builds.length > 0);
}

interface Build extends Task {
  directory: string;
  device: Device;
  options: SetupOptions;
  report: OnSetupProgress;
  setChild: (pid: number) => Promise<void>;
}

async function build(task: Build): Promise<Runtime> {
  const { directory, device, extras, present, python, installed, installedTriton, options, report, setChild, plan } =
    task;
  const { signal } = options;
  if (plan.installer === undefined) throw new TypeError("a plan to install without an installer");
  // in the runtime's own folder, because an unpacked bundle takes gigabytes; leftovers of a killed run are removed first
  for (const name of await readdir(directory)) {
    if (SCRATCH.test(name)) await rm(join(directory, name), { recursive: true, force: true });
  }
  const scratch = await mkdtemp(join(directory, "scratch-"));
  const venv = join(directory, "venv");
  let finished = present !== undefined;
  try {
    const pythonVersion = python?.version ?? present?.python.version ?? "";
    const bundle =
      options.offline === undefined
        ? undefined
        : await openBundle(options.offline, {
            scratch,
            device,
            pythonVersion,
            python: python?.base ?? present?.python.base ?? "",
            extras,
            withTriton: installedTriton === undefined,
            useInstalled: installed !== undefined,
            signal,
          });
    if (python !== undefined) {
      const kind = device === "cpu" && extras.includes("full") ? "cpuFull" : device;
      await makeRoom(directory, device, installed === undefined ? SPACE[kind] : OVERLAY_SPACE);
      await mkdir(venv);
      await writeFile(join(venv, MARKER), `tritonode ${packageVersion()}\n`);
    }
    const manifest = await installInto({
      directory,
      device,
      extras,
      python,
      present,
      installed,
      installedTriton,
      installer: plan.installer,
      wheels: bundle,
      torchIndex: options.torchIndex,
      scratch,
      signal,
      report,
      setChild,
    });
    await writeManifest(directory, packed(directory, manifest));
    await remember(directory);
    finished = true;
    report({ phase: "done", message: `the runtime is complete: ${directory}` });
    return toRuntime(directory, manifest);
  } finally {
    await rm(scratch, { recursive: true, force: true });
    // an incomplete venv is useless to the next run, and takes 3 GB
    if (!finished && existsSync(join(venv, MARKER))) await rm(venv, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** The manifest, if the runtime is complete and has this version's pins and what the caller asks for. */
async function complete(
  directory: string,
  device: Device,
  installed: Installed | undefined,
  options: SetupOptions,
): Promise<Manifest | undefined> {
  if (!hasManifest(directory)) return undefined;
  let manifest: Manifest;
  try {
    manifest = await readManifest(directory);
    checkFiles(toRuntime(directory, manifest));
  } catch (error) {
    if (error instanceof RuntimeMissingError) return undefined;
    throw error;
  }
  if (manifest.device !== device) {
    throw new SetupError(`${directory} holds a runtime for ${manifest.device}, not for ${device}`, {
      code: "ERR_SETUP_DIRECTORY",
      hint: "choose another folder with --dir, or remove that one",
    });
  }
  // The other environment has another vLLM, torch or numpy since, so other packages may have to be added.
  if (installed !== undefined && JSON.stringify(manifest.installed) !== JSON.stringify(recorded(installed)))
    return undefined;
  // A runtime that uses installed packages continues to do so until it is made again.
  const wanted =
    manifest.installed === undefined
      ? baseDigest(device, manifest.triton.installed === undefined)
      : overlayDigest(overlayPins(manifest.installed, manifest.triton.installed));
  if (manifest.requirements !== wanted) return undefined;
  if (options.triton === "none" && manifest.triton.installed !== undefined) return undefined;
  if (options.triton !== undefined && options.triton !== "none") {
    if (manifest.triton.installed !== (await realpath(options.triton).catch(() => undefined))) return undefined;
  }
  if (options.python !== undefined && installed === undefined) {
    const python = await findPython({ python: options.python, signal: options.signal });
    if (python.base !== manifest.python.base) return undefined;
  }
  return manifest;
}

/** Refuses a folder with other files in it, before anything is written there. */
async function refuseForeign(directory: string): Promise<void> {
  const { state, foreign } = contentsOf(directory);
  if (state === "complete") return;
  if (foreign.length > 0) {
    throw new SetupError(`${directory} is not empty and is not a runtime: it holds ${foreign[0]}`, {
      code: "ERR_SETUP_DIRECTORY",
      hint: "choose an empty or a new folder with --dir",
    });
  }
}

/** Removes what an earlier attempt left, and checks that there is enough space for the new one. */
async function makeRoom(directory: string, device: Device, needed: number): Promise<void> {
  await removeManifest(directory);
  await rm(join(directory, "venv"), { recursive: true, force: true, maxRetries: 3 });
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < needed) {
    throw new SetupError(
      `${directory} has ${formatBytes(bavail * bsize)} free, and the runtime for ${device} needs ${formatBytes(needed)}`,
      { code: "ERR_SETUP_SPACE", hint: "free some space, or choose another place with --dir" },
    );
  }
}

function checkPlatform(): void {
  const obstacle = hostObstacle();
  if (obstacle === undefined) return;
  throw new SetupError(obstacle.reason, { code: "ERR_SETUP_PLATFORM", hint: obstacle.hint });
}

function explained(error: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted && !(error instanceof SetupCancelledError)) return new SetupCancelledError(error);
  if (error instanceof TritonodeError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const hint = code === "ENOSPC" ? "free some disk space, or choose another place with --dir" : undefined;
  return new SetupError(`the setup failed: ${message}`, { hint, cause: error });
}
