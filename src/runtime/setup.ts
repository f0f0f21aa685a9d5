import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, realpath, rm, statfs, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { RuntimeMissingError, TritonodeError } from "../errors";
import { openBundle } from "./bundle";
import { contentsOf, MARKER, SCRATCH } from "./contents";
import { SetupCancelledError, SetupError } from "./errors";
import { gpuFlaw } from "./gpu";
import { installInto } from "./install";
import { acquireLock } from "./lock";
import {
  checkFiles,
  hasManifest,
  type Manifest,
  packed,
  readManifest,
  removeManifest,
  toRuntime,
  writeManifest,
} from "./manifest";
import { checkDevice, checkExtras } from "./options";
import { defaultDirectory, makeDirectories, namedDirectory, packageVersion } from "./paths";
import { formatBytes, type OnSetupProgress } from "./progress";
import { findPython, type Python } from "./python";
import { baseDigest, digest, EXTRAS, type Extra, isExtra } from "./requirements";
import type { Device, Runtime } from "./runtime";
import { stubPythonVersion, tritonOfDirectory } from "./triton";

export interface SetupOptions {
  /** Default: `cuda` where an NVIDIA driver and a GPU are in reach, else `cpu`. */
  device?: Device | undefined;
  /** The runtime's own folder; default `$TRITONODE_RUNTIME_DIR`, else `<data dir>/tritonode/<version>-<device>`. */
  directory?: string | undefined;
  /** The Python to build on: a path or a name on PATH. Default: the best one found. */
  python?: string | undefined;
  /** A bundle made by `bundle()`: nothing is fetched from anywhere. */
  offline?: string | undefined;
  /** An installed Triton to use, e.g. `/opt/tritonserver`, in place of the one from the nvidia-pytriton wheel. */
  triton?: string | undefined;
  /** The index to take torch from, in place of the user's own and of PyTorch's CPU index. */
  torchIndex?: string | undefined;
  /** Further packages: `test`, `demo`. Those that an earlier run installed stay. */
  extras?: readonly string[] | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: OnSetupProgress | undefined;
}

/** Bytes that an install takes at its peak (wheels and what they unpack to), measured for the CPU, summed up for CUDA. */
const SPACE: Readonly<Record<Device, number>> = { cpu: 4.5e9, cuda: 16e9 };

/**
 * Makes the runtime, or brings it up to date; returns at once when it is complete already. May be interrupted at any
 * point and run again; of two at once the second waits for the first. The manifest is written last: until then
 * `findRuntime` finds nothing.
 *
 * @throws {@link SetupError} and its kinds, {@link PythonNotFoundError}, {@link InvalidArgumentError}.
 */
export async function setup(options: SetupOptions = {}): Promise<Runtime> {
  const device = options.device ?? (gpuFlaw() === undefined ? "cuda" : "cpu");
  checkDevice(device);
  const extras = checkExtras(options.extras ?? []);
  checkPlatform(options.triton);
  const directory = namedDirectory(options.directory) ?? defaultDirectory(device);
  const report = options.onProgress ?? (() => {});
  await makeDirectories(directory).catch((cause) => {
    throw new SetupError(`${directory} can't be made`, { hint: "choose another place with --dir", cause });
  });
  await refuseForeign(directory);
  const lock = await acquireLock(directory, {
    signal: options.signal,
    onWait: (pid) => report({ phase: "wait", message: `waiting for another setup of ${directory} (process ${pid})` }),
  });
  try {
    const present = await complete(directory, device, options);
    const have = present === undefined ? [] : Object.keys(present.extras).filter(isExtra);
    if (present !== undefined && extras.every((name) => present.extras[name] === digest(EXTRAS[name]))) {
      report({ phase: "done", message: `the runtime in ${directory} is complete` });
      return toRuntime(directory, present);
    }
    const wanted = [...new Set([...have, ...extras])].sort();
    return await build({ directory, device, extras: wanted, present, options, report, setChild: lock.setChild });
  } catch (error) {
    throw explained(error, options.signal);
  } finally {
    await lock.release();
  }
}

interface Build {
  directory: string;
  device: Device;
  extras: Extra[];
  /** The valid manifest to add extras to; undefined: from the ground up. */
  present: Manifest | undefined;
  options: SetupOptions;
  report: OnSetupProgress;
  setChild: (pid: number) => Promise<void>;
}

async function build({ directory, device, extras, present, options, report, setChild }: Build): Promise<Runtime> {
  const { signal } = options;
  // in the runtime's own folder, for an unpacked bundle takes gigabytes; what a killed run left there goes first
  for (const name of await readdir(directory)) {
    if (SCRATCH.test(name)) await rm(join(directory, name), { recursive: true, force: true });
  }
  const scratch = await mkdtemp(join(directory, "scratch-"));
  const venv = join(directory, "venv");
  let finished = present !== undefined;
  try {
    const installed =
      options.triton === undefined ? undefined : await realpath(options.triton).catch(() => options.triton);
    const version = installed === undefined ? undefined : stubPythonVersion(tritonOfDirectory(installed).stub);
    let python: Python | undefined;
    if (present === undefined) {
      report({ phase: "python", message: "looking for a Python" });
      python = await findPython({ python: options.python, version, signal });
      report({ phase: "python", message: `Python ${python.fullVersion}: ${python.executable}` });
    }
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
            withTriton: installed === undefined,
            signal,
          });
    if (python !== undefined) {
      await makeRoom(directory, device);
      await mkdir(venv);
      await writeFile(join(venv, MARKER), `tritonode ${packageVersion()}\n`);
    }
    const manifest = await installInto({
      directory,
      device,
      extras,
      python,
      present,
      installedTriton: installed,
      wheels: bundle,
      torchIndex: options.torchIndex,
      scratch,
      signal,
      report,
      setChild,
    });
    await writeManifest(directory, packed(directory, manifest));
    finished = true;
    report({ phase: "done", message: `the runtime is complete: ${directory}` });
    return toRuntime(directory, manifest);
  } finally {
    await rm(scratch, { recursive: true, force: true });
    // a half-made venv is of no use to the next run, and 3 GB to the user
    if (!finished && existsSync(join(venv, MARKER))) await rm(venv, { recursive: true, force: true, maxRetries: 3 });
  }
}

/** The manifest, where the runtime is whole, of this version's pins and of what the caller asks for; else undefined. */
async function complete(directory: string, device: Device, options: SetupOptions): Promise<Manifest | undefined> {
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
  if (manifest.requirements !== baseDigest(device, manifest.triton.installed === undefined)) return undefined;
  if (options.triton !== undefined) {
    if (manifest.triton.installed !== (await realpath(options.triton).catch(() => undefined))) return undefined;
  }
  if (options.python !== undefined) {
    const python = await findPython({ python: options.python, signal: options.signal });
    if (python.base !== manifest.python.base) return undefined;
  }
  return manifest;
}

/** Refuses a folder with anything of the user's in it, before a single file is written there. */
async function refuseForeign(directory: string): Promise<void> {
  const { state, foreign } = contentsOf(directory);
  if (state === "complete") return;
  if (foreign.length > 0) {
    throw new SetupError(`${directory} is not empty and is no runtime: it holds ${foreign[0]}`, {
      code: "ERR_SETUP_DIRECTORY",
      hint: "choose an empty or a new folder with --dir",
    });
  }
}

/** Clears what an earlier try left, and sees that the new one will fit. */
async function makeRoom(directory: string, device: Device): Promise<void> {
  await removeManifest(directory);
  await rm(join(directory, "venv"), { recursive: true, force: true, maxRetries: 3 });
  const { bavail, bsize } = await statfs(directory);
  if (bavail * bsize < SPACE[device]) {
    throw new SetupError(
      `${directory} has ${formatBytes(bavail * bsize)} free, and the runtime for ${device} needs ${formatBytes(SPACE[device])}`,
      { code: "ERR_SETUP_SPACE", hint: "free some space, or choose another place with --dir" },
    );
  }
}

function checkPlatform(triton: string | undefined): void {
  if (process.platform !== "linux") {
    throw new SetupError(`tritonode runs on Linux, not on ${process.platform}`, { code: "ERR_SETUP_PLATFORM" });
  }
  if (process.arch !== "x64" && triton === undefined) {
    throw new SetupError(`nvidia-pytriton has no wheel for ${process.arch}`, {
      code: "ERR_SETUP_PLATFORM",
      hint: "install Triton yourself (NGC's container has it in /opt/tritonserver) and name it with --triton",
    });
  }
}

function explained(error: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted && !(error instanceof SetupCancelledError)) return new SetupCancelledError(error);
  if (error instanceof TritonodeError) return error;
  const { code, message } = error as NodeJS.ErrnoException;
  const hint = code === "ENOSPC" ? "free some disk space, or choose another place with --dir" : undefined;
  return new SetupError(`the setup failed: ${message}`, { hint, cause: error });
}
