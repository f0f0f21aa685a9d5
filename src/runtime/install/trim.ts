import { copyFile, open, readdir, rename, rm, truncate } from "node:fs/promises";
import { join } from "node:path";
import { KERNEL_BUILDS, LEFT_OUT_FILES } from "../packages/left-out";

/** A library is copied only if that saves at least this many bytes. */
const WORTH_IT = 1_000_000;

/** Triton's libraries are left unchanged, because tritonode's repairs of its Python backend read their sections. */
const UNTOUCHED = /^(pytriton|nvidia_pytriton\.libs)$/;

/**
 * Removes from a runtime what left-out.ts lists, the tests of packages, and the debug information of libraries.
 *
 * @param sitePackages - the venv's
 * @param pythonVersion - major.minor of the venv's Python
 * @param signal - stops it between two files
 */
export async function trim(sitePackages: string, pythonVersion: string, signal?: AbortSignal): Promise<void> {
  for (const part of LEFT_OUT_FILES) {
    const folder = join(sitePackages, part.folder);
    for (const name of await names(folder)) {
      if (part.names(name, pythonVersion)) await rm(join(folder, name), { recursive: true });
    }
  }
  for (const name of await names(sitePackages)) {
    if (!UNTOUCHED.test(name)) await walk(sitePackages, name, signal);
  }
}

async function walk(parent: string, name: string, signal: AbortSignal | undefined): Promise<void> {
  signal?.throwIfAborted();
  const folder = join(parent, name);
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  for (const entry of entries) {
    if (entry.isDirectory()) {
      if (entry.name === "tests") await rm(join(folder, entry.name), { recursive: true });
      else await walk(folder, entry.name, signal);
    } else if (entry.isFile() && /\.so(\.|$)/.test(entry.name)) {
      await trimLibrary(join(folder, entry.name));
    }
  }
}

/**
 * Removes everything from a 64-bit little-endian ELF file that no segment loads: debug information, the symbol table for
 * debuggers, and the section headers, which only such tools read (System V ABI, chapters 4 and 5: a loader works from
 * the program headers). The three builds of vLLM's kernels are four fifths debug information.
 *
 * The file is replaced, never changed: an installer may have linked it from its cache.
 *
 * @returns how many bytes were saved
 */
export async function trimLibrary(path: string): Promise<number> {
  const file = await open(path);
  let size: number;
  let end: number;
  try {
    ({ size } = await file.stat());
    if (size < WORTH_IT) return 0;
    end = await loadedEnd(await file.read(Buffer.alloc(64), 0, 64, 0).then(({ buffer }) => buffer), (at, length) =>
      file.read(Buffer.alloc(length), 0, length, at).then(({ buffer }) => buffer),
    );
  } finally {
    await file.close();
  }
  if (size - end < WORTH_IT) return 0;
  const copy = `${path}.trimmed`;
  try {
    await copyFile(path, copy);
    await truncate(copy, end);
    const writable = await open(copy, "r+");
    try {
      // e_shoff; e_shnum and e_shstrndx: no section headers.
      await writable.write(Buffer.alloc(8), 0, 8, 40);
      await writable.write(Buffer.alloc(4), 0, 4, 60);
    } finally {
      await writable.close();
    }
    await rename(copy, path);
  } catch (error) {
    await rm(copy, { force: true });
    throw error;
  }
  return size - end;
}

/** The end of the last byte that a segment covers; Infinity if it is not such an ELF file. */
async function loadedEnd(header: Buffer, read: (at: number, length: number) => Promise<Buffer>): Promise<number> {
  const isElf64 = header.subarray(0, 6).equals(Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]));
  if (!isElf64) return Number.POSITIVE_INFINITY;
  const [at, each, count] = [Number(header.readBigUInt64LE(32)), header.readUInt16LE(54), header.readUInt16LE(56)];
  const table = await read(at, each * count);
  let end = at + table.length;
  for (let i = 0; i < count; i++) {
    const [offset, length] = [table.readBigUInt64LE(i * each + 8), table.readBigUInt64LE(i * each + 32)];
    end = Math.max(end, Number(offset + length));
  }
  return end;
}

/**
 * Removes the builds of vLLM's kernels that this machine's processor does not use.
 *
 * @param used - the build that vLLM loaded here; undefined: it is not known, and all builds stay
 * @returns the builds that were removed
 */
export async function removeBuilds(sitePackages: string, used: string | undefined): Promise<string[]> {
  if (used === undefined) return [];
  const folder = join(sitePackages, "vllm");
  const present = new Set(await names(folder));
  const removed = KERNEL_BUILDS.filter((name) => name !== used && present.has(`${name}.abi3.so`));
  for (const name of removed) await rm(join(folder, `${name}.abi3.so`));
  return removed;
}

async function names(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => []);
}
