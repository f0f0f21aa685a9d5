import { existsSync, readdirSync, statSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { checkNames } from "../../common/unknown";
import { InvalidArgumentError, TritonodeError } from "../../errors";
import { SetupCancelledError, SetupError } from "../errors";
import { checkDevice, checkExtras } from "../find/options";
import { makeDirectories, packageVersion } from "../find/paths";
import { findPython, type Python } from "../find/python";
import {
  baseDigest,
  basePins,
  digest,
  type Extra,
  extraPins,
  extrasPins,
  installedPins,
  PIP,
  TORCH,
  TORCH_CPU_INDEX,
  TRITON,
} from "../packages/requirements";
import { run } from "../process";
import type { Device } from "../runtime";
import { arePartsUsable, type Parts, readParts, writeParts } from "./parts";
import { isNotFound, type PipContext, pipDownload, pipEnvironment, pipInstall } from "./pip";
import type { OnSetupProgress } from "./progress";

/** Options of {@link bundle}. */
export interface BundleOptions {
  /** Where to write the bundle: a `.tar` file, or a folder if `parts` is set. */
  output: string;
  /** Size in bytes: the bundle becomes a folder of files of this size, each with a checksum. */
  parts?: number | undefined;
  /** For a Python that has its own vLLM and torch: bundle only what `setup --use-installed` adds to it. */
  useInstalled?: boolean | undefined;
  /** The device of the machine that the bundle is for. */
  device: Device;
  /** The Python to download for (a path, or a name on PATH). It must have the same version as the other machine's. */
  python?: string | undefined;
  /** The package index for torch, instead of the user's own and of PyTorch's CPU index. */
  torchIndex?: string | undefined;
  /** Extras to include. */
  extras?: readonly string[] | undefined;
  /** Aborting it stops the downloads, and the promise rejects with {@link SetupCancelledError}. */
  signal?: AbortSignal | undefined;
  /** Called at each step and, while a package is downloaded, as bytes arrive. */
  onProgress?: OnSetupProgress | undefined;
}

const bundleOptions = Object.keys({
  output: true,
  parts: true,
  useInstalled: true,
  device: true,
  python: true,
  torchIndex: true,
  extras: true,
  signal: true,
  onProgress: true,
} satisfies Record<keyof BundleOptions, true>);

interface Description {
  schema: 1;
  tritonode: string;
  device: Device;
  pythonVersion: string;
  arch: string;
  /** `baseDigest` of what it holds; for `useInstalled` the digest of `installedPins`. */
  requirements: string;
  extras: Record<string, string>;
  useInstalled?: boolean;
}

const DESCRIPTION = "bundle.json";

/**
 * Downloads every wheel that `setup --offline` needs, for this machine's architecture and one Python version, into one
 * uncompressed tar (wheels are compressed already), or into a folder of parts. The result appears only when it is complete.
 *
 * ```ts
 * await bundle({ output: "./kit", device: "cpu", parts: 60_000_000 });
 * ```
 *
 * @returns the absolute path of the bundle.
 * @throws {@link SetupError}; {@link InvalidArgumentError} for a folder for parts that is not empty
 */
export async function bundle(options: BundleOptions): Promise<string> {
  checkNames("bundle", options, bundleOptions);
  try {
    return await make(options);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (error instanceof TritonodeError || code === undefined) throw error;
    const hint = code === "ENOSPC" ? "free some disk space, or choose another place for the bundle" : undefined;
    throw new SetupError(`the bundle could not be made: ${message}`, { hint, cause: error });
  }
}

async function make(options: BundleOptions): Promise<string> {
  const { device, signal, parts, useInstalled = false } = options;
  checkDevice(device);
  const extras = checkExtras(options.extras ?? []);
  const report = options.onProgress ?? (() => {});
  const output = resolve(options.output);
  if (parts !== undefined && existsSync(output) && !isEmptyFolder(output)) {
    throw new InvalidArgumentError(`${output} exists already`, { hint: "name a new or an empty folder" });
  }
  if (parts === undefined && existsSync(output) && statSync(output).isDirectory()) {
    throw new InvalidArgumentError(`${output} is a folder`, {
      hint: "name a file such as tritonode-runtime.tar; a folder takes parts (--parts SIZE)",
    });
  }
  // next to the result, because it takes gigabytes and is renamed at the end
  await makeDirectories(dirname(output)).catch((cause) => {
    throw new SetupError(`${dirname(output)} can't be made: ${(cause as Error).message}`, {
      hint: "choose another place for the bundle",
      cause,
    });
  });
  const scratch = await mkdtemp(join(dirname(output), ".tritonode-bundle-"));
  try {
    report({ phase: "python", message: "looking for a Python" });
    const python = await findPython({ python: options.python, signal });
    const context = await downloader(python, scratch, signal, report);
    const folder = join(scratch, "bundle");
    const wheels = join(folder, "wheels");
    await makeDirectories(wheels);
    if (!useInstalled) await downloadTorch(context, device, wheels, options.torchIndex);
    const base = useInstalled ? installedPins() : [TRITON, ...basePins(device, false)];
    const pins = [PIP, ...base, ...extrasPins(extras, device)];
    await pipDownload(context, pins, wheels);
    const description: Description = {
      schema: 1,
      tritonode: packageVersion(),
      device,
      pythonVersion: python.version,
      arch: process.arch,
      requirements: requirementsOf(device, useInstalled),
      extras: Object.fromEntries(extras.map((name) => [name, digest(extraPins(name, device))])),
      ...(useInstalled ? { useInstalled } : {}),
    };
    report({ phase: "install", message: `writing ${output}` });
    const describe = (more?: Parts) =>
      writeFile(join(folder, DESCRIPTION), `${JSON.stringify({ ...description, ...more }, undefined, 2)}\n`);
    if (parts !== undefined) {
      await describe(await writeParts(wheels, folder, parts, signal));
      await rm(wheels, { recursive: true });
      await rename(folder, output);
      report({ phase: "done", message: `the bundle is complete: ${output}` });
      return output;
    }
    await describe();
    const tar = join(scratch, "bundle.tar");
    await tarfile(python.executable, ["-c", tar, DESCRIPTION, "wheels"], folder, signal);
    await rename(tar, output);
    report({ phase: "done", message: `the bundle is complete: ${output}` });
    return output;
  } finally {
    await rm(scratch, { recursive: true, force: true, maxRetries: 3 });
  }
}

/**
 * Opens a bundle (the tar, or a folder that it was unpacked to) and checks that it fits.
 *
 * @returns the folder of its wheels.
 * @throws {@link SetupError} `ERR_SETUP_BUNDLE` saying what it was made for.
 */
export async function openBundle(
  path: string,
  wanted: {
    scratch: string;
    device: Device;
    pythonVersion: string;
    /** An interpreter to unpack it with. */
    python: string;
    extras: readonly Extra[];
    withTriton: boolean;
    useInstalled?: boolean | undefined;
    signal: AbortSignal | undefined;
  },
): Promise<string> {
  requireBundle(path);
  let folder = resolve(path);
  if (!statSync(folder).isDirectory()) {
    folder = join(wanted.scratch, "bundle");
    await mkdir(folder);
    await tarfile(wanted.python, ["-e", resolve(path), folder], folder, wanted.signal).catch((cause) => {
      if (cause instanceof SetupCancelledError) throw cause;
      throw unfit(path, "can't be unpacked", cause);
    });
  }
  const text = await readFile(join(folder, DESCRIPTION), "utf8").catch((cause) => {
    throw unfit(path, `is not a bundle of tritonode (no ${DESCRIPTION})`, cause);
  });
  let found: Description & Partial<Parts>;
  try {
    found = JSON.parse(text) as Description & Partial<Parts>;
  } catch (cause) {
    throw unfit(path, `has an unreadable ${DESCRIPTION}`, cause);
  }
  const { device, pythonVersion, useInstalled = false } = wanted;
  if (found.device !== device) throw unfit(path, `is for ${found.device}, not for ${device}`);
  if (found.arch !== process.arch) throw unfit(path, `is for ${found.arch}, not for ${process.arch}`);
  if (found.pythonVersion !== pythonVersion) {
    throw unfit(path, `is for Python ${found.pythonVersion}, not ${pythonVersion}: name one with --python`);
  }
  if (found.useInstalled === true && !useInstalled) {
    throw unfit(
      path,
      "holds only what a Python with vLLM and torch of its own lacks: name that one with --use-installed",
    );
  }
  // a bundle with everything serves --use-installed as well
  if (found.requirements !== requirementsOf(device, found.useInstalled === true)) {
    throw unfit(path, `was made by tritonode ${found.tritonode} with other versions than this ${packageVersion()}`);
  }
  const lacking = wanted.extras.find(
    (name) => extraPins(name, device).length > 0 && found.extras[name] !== digest(extraPins(name, device)),
  );
  if (lacking !== undefined) throw unfit(path, `lacks the extra "${lacking}"`);
  const { wheels, parts } = found;
  if (wheels === undefined && parts === undefined) return join(folder, "wheels");
  const cut = { wheels, parts } as Partial<Parts>;
  if (!arePartsUsable(cut)) throw unfit(path, `has a ${DESCRIPTION} whose parts don't make up its wheels`);
  const whole = join(wanted.scratch, "wheels");
  await readParts(folder, cut, whole, wanted.signal, (reason, hint) => unfit(path, reason, undefined, hint));
  return whole;
}

/** @throws {@link SetupError} `ERR_SETUP_BUNDLE` if there is no such file or folder. */
export function requireBundle(path: string): void {
  if (!existsSync(path)) throw unfit(resolve(path), "is not there");
}

function requirementsOf(device: Device, useInstalled: boolean): string {
  return useInstalled ? digest(installedPins()) : baseDigest(device, true);
}

function isEmptyFolder(path: string): boolean {
  return statSync(path).isDirectory() && readdirSync(path).length === 0;
}

/** A temporary venv with a pip that shows its progress. */
async function downloader(
  python: Python,
  scratch: string,
  signal: AbortSignal | undefined,
  onProgress: OnSetupProgress,
): Promise<PipContext> {
  const venv = join(scratch, "venv");
  onProgress({ phase: "environment", message: `making a virtual environment for ${basename(python.executable)}` });
  const made = await run(python.executable, ["-I", "-m", "venv", venv], {
    environment: pipEnvironment(process.env, true),
    signal,
  });
  if (made.code !== 0)
    throw new SetupError(`${python.executable} -m venv failed: ${made.stderr.trim().split("\n").at(-1)}`);
  const context: PipContext = { python: join(venv, "bin", "python3"), signal, onProgress, log: () => {}, scratch };
  await pipInstall({ ...context, onProgress: () => {} }, [PIP]).catch((error) => {
    if (error instanceof SetupCancelledError) throw error;
  });
  return context;
}

async function downloadTorch(
  context: PipContext,
  device: Device,
  target: string,
  index: string | undefined,
): Promise<void> {
  try {
    await pipDownload(context, [TORCH[device]], target, { index });
  } catch (error) {
    if (device !== "cpu" || index !== undefined || !isNotFound(error, "torch")) throw error;
    await pipDownload(context, [TORCH[device]], target, { index: TORCH_CPU_INDEX });
  }
}

/** Python's own tarfile program: a Python is needed anyway, and a tar program is not everywhere. */
async function tarfile(python: string, args: string[], cwd: string, signal: AbortSignal | undefined): Promise<void> {
  const result = await run(python, ["-I", "-m", "tarfile", ...args], { cwd, signal });
  if (result.code !== 0) throw new SetupError(`tarfile failed: ${result.stderr.trim().split("\n").at(-1)}`);
}

const MAKE_ONE = "make one with `npx tritonode bundle OUT.tar` on a machine like this one, with a network";

function unfit(path: string, reason: string, cause?: unknown, hint = MAKE_ONE): SetupError {
  return new SetupError(`the bundle ${path} ${reason}`, { code: "ERR_SETUP_BUNDLE", hint, cause });
}
