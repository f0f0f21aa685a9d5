import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { open, readFile, rename, unlink } from "node:fs/promises";
import { isAbsolute, join, relative } from "node:path";
import { RuntimeMissingError } from "../../errors";
import type { LeftOut } from "../packages/left-out";
import type { Device, Runtime, TritonFiles } from "../runtime";
import type { InstalledPackages } from "./installed";
import { packageVersion, setupCommand } from "./paths";

/**
 * What `<runtime>/manifest.json` holds. Paths inside the runtime are relative to it. It is written last: without a manifest
 * there is no runtime.
 */
export interface Manifest {
  schema: 1;
  /** The tritonode version that made it. */
  tritonode: string;
  device: Device;
  /** ISO 8601. */
  createdAt: string;
  python: { executable: string; base: string; version: string; fullVersion: string; libpythonDirectory: string };
  /** `installed`: the folder given with --triton, e.g. /opt/tritonserver; undefined: the wheel. */
  triton: TritonFiles & { installed?: string | undefined };
  /** The environment whose packages it uses (`--use-installed`); undefined: all are its own. */
  installed?: InstalledPackages | undefined;
  vllmVersion: string;
  /** baseDigest() of the pins that were installed. */
  requirements: string;
  /** Extra → digest() of its pins. */
  extras: Record<string, string>;
  packages: Record<string, string>;
  /** What the runtime lacks because no plain load needs it; undefined: nothing. */
  leftOut?: LeftOut | undefined;
}

const FILE = "manifest.json";

/** Whether there is a manifest file, readable or not. */
export function hasManifest(directory: string): boolean {
  return existsSync(join(directory, FILE));
}

/**
 * Reads and checks a manifest.
 *
 * @throws {@link RuntimeMissingError}: `ERR_RUNTIME_MISSING` where there is none, `ERR_RUNTIME_BROKEN` where it is not
 *   one of ours or unreadable.
 */
export async function readManifest(directory: string, device?: Device): Promise<Manifest> {
  const path = join(directory, FILE);
  const command = setupCommand({ device, directory });
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const missing = code === "ENOENT";
    throw new RuntimeMissingError(missing ? `no runtime in ${directory}` : `${path} can't be read (${code})`, {
      code: missing ? "ERR_RUNTIME_MISSING" : "ERR_RUNTIME_BROKEN",
      hint: `run: ${command}`,
      cause,
    });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw broken(path, "is not JSON", command, cause);
  }
  const reason = flaw(value);
  if (reason !== undefined) throw broken(path, reason, command);
  return value as Manifest;
}

/** Writes a manifest so that a reader sees the old one or the new one but never a part of one, even after a power failure. */
export async function writeManifest(directory: string, manifest: Manifest): Promise<void> {
  const path = join(directory, FILE);
  const temporary = `${path}.${process.pid}.${randomBytes(4).toString("hex")}`;
  const file = await open(temporary, "wx");
  try {
    await file.writeFile(`${JSON.stringify(manifest, undefined, 2)}\n`);
    await file.sync();
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file.close().catch(() => {});
    await unlink(temporary).catch(() => {});
    throw error;
  }
}

/** Deletes the manifest, so that nothing uses the runtime while its venv is changed. */
export async function removeManifest(directory: string): Promise<void> {
  await unlink(join(directory, FILE)).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
}

/** The manifest, with paths inside `directory` made relative. */
export function packed(directory: string, manifest: Manifest): Manifest {
  return mapPaths(manifest, (path) => {
    const inside = relative(directory, path);
    return inside !== "" && !inside.startsWith("..") && !isAbsolute(inside) ? inside : path;
  });
}

/** The Runtime that a manifest in `directory` describes. */
export function toRuntime(directory: string, manifest: Manifest): Runtime {
  const { python, triton, device, installed, vllmVersion, packages } = mapPaths(manifest, (path) =>
    isAbsolute(path) ? path : join(directory, path),
  );
  const { installed: _, ...files } = triton;
  return {
    directory,
    device,
    python: python.executable,
    pythonVersion: python.version,
    libpythonDirectory: python.libpythonDirectory,
    // JSON drops undefined keys: put them back, so that the object always has the interface's shape
    triton: { ...files, dependencyDirectory: files.dependencyDirectory, server: files.server },
    vllmVersion,
    packages,
    ...(installed === undefined
      ? {}
      : { installed: { python: installed.python, sitePackages: installed.sitePackages } }),
  };
}

/**
 * Checks that the files of a manifest exist: a load without them would hang or crash.
 *
 * @throws {@link RuntimeMissingError} (`ERR_RUNTIME_BROKEN`) naming the file that is missing.
 */
export function checkFiles(runtime: Runtime): void {
  const { triton } = runtime;
  const parts: [string, string][] = [
    ["its Python", runtime.python],
    ["libpython", join(runtime.libpythonDirectory, `libpython${runtime.pythonVersion}.so.1.0`)],
    ["libtritonserver", triton.library],
    ["Triton's Python backend", join(triton.pythonBackend, "libtriton_python.so")],
    ["the Python backend's stub", triton.stub],
  ];
  for (const [what, path] of parts) {
    // existsSync follows links: venv/bin/python3 is a dangling link if its base Python was removed
    if (existsSync(path)) continue;
    throw new RuntimeMissingError(`the runtime in ${runtime.directory} is broken: ${what} is gone (${path})`, {
      code: "ERR_RUNTIME_BROKEN",
      hint: `run: ${setupCommand(runtime)}`,
    });
  }
}

function mapPaths(manifest: Manifest, map: (path: string) => string): Manifest {
  const { python, triton } = manifest;
  const maybe = (path: string | undefined) => (path === undefined ? undefined : map(path));
  return {
    ...manifest,
    python: { ...python, executable: map(python.executable), libpythonDirectory: map(python.libpythonDirectory) },
    triton: {
      ...triton,
      library: map(triton.library),
      dependencyDirectory: maybe(triton.dependencyDirectory),
      pythonBackend: map(triton.pythonBackend),
      stub: map(triton.stub),
      server: maybe(triton.server),
    },
  };
}

function broken(path: string, reason: string, command: string, cause?: unknown): RuntimeMissingError {
  return new RuntimeMissingError(`${path} ${reason}`, { code: "ERR_RUNTIME_BROKEN", hint: `run: ${command}`, cause });
}

function flaw(value: unknown): string | undefined {
  if (!isRecord(value)) return "is not a JSON object";
  if (value.schema !== 1) {
    return `has schema ${JSON.stringify(value.schema)}, and tritonode ${packageVersion()} reads schema 1`;
  }
  if (value.device !== "cpu" && value.device !== "cuda") return `names no device (${JSON.stringify(value.device)})`;
  const { python, triton } = value;
  if (!isRecord(python) || !strings(python, ["executable", "version", "libpythonDirectory"]))
    return "has no usable python";
  if (!isRecord(triton) || !strings(triton, ["version", "library", "pythonBackend", "stub"]))
    return "has no usable triton";
  if (!strings(value, ["vllmVersion", "requirements"])) return "names no vLLM version";
  if (!isRecord(value.packages) || !isRecord(value.extras)) return "lists no packages";
  return undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function strings(value: Record<string, unknown>, keys: string[]): boolean {
  return keys.every((key) => typeof value[key] === "string");
}
