import { link, lstat, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";

/** Smaller files, in bytes, are not worth the effort. */
const SMALLEST = 64 * 1024;

/**
 * Replaces large files of a runtime with hard links to equal ones of another runtime. Two files count as equal if
 * both runtimes have the package in the same version with the same checksum for that file (the wheel's RECORD), and
 * their sizes agree. So nothing has to be read, and two files that were trimmed are shared as well. pip and uv replace files
 * and never write into them, so a change of one runtime does not affect the other.
 *
 * @returns how many bytes of disk space are saved; 0 if the two are on different file systems
 */
export async function shareWith(sitePackages: string, other: string): Promise<number> {
  const theirs = new Set(await names(other));
  let spared = 0;
  for (const info of await names(sitePackages)) {
    if (!info.endsWith(".dist-info") || !theirs.has(info)) continue;
    const [own, known] = await Promise.all([checksums(join(sitePackages, info)), checksums(join(other, info))]);
    for (const [path, sum] of own) {
      if (known.get(path) === sum) spared += await shareFile(join(sitePackages, path), join(other, path));
    }
  }
  return spared;
}

async function shareFile(own: string, other: string): Promise<number> {
  const copy = `${own}.shared`;
  try {
    const [mine, its] = await Promise.all([lstat(own), lstat(other)]);
    const same = mine.dev === its.dev && mine.ino === its.ino;
    if (same || !mine.isFile() || !its.isFile() || mine.size < SMALLEST) return 0;
    if (mine.size !== its.size || mine.mode !== its.mode || mine.uid !== its.uid || mine.dev !== its.dev) return 0;
    await link(other, copy);
    await rename(copy, own);
    return mine.size;
  } catch {
    // The file has vanished, or the file system has no hard links: then the copy stays.
    await rm(copy, { force: true });
    return 0;
  }
}

/** File → checksum of an installed package (https://packaging.python.org/specifications/recording-installed-packages/). */
async function checksums(info: string): Promise<Map<string, string>> {
  const record = await readFile(join(info, "RECORD"), "utf8").catch(() => "");
  // Paths with a comma are quoted; they are skipped.
  return new Map(
    record.split("\n").flatMap((line) => {
      const [path = "", sum = "", size = "0", ...more] = line.split(",");
      const usable = sum !== "" && more.length === 0 && Number(size) >= SMALLEST && !path.startsWith("..");
      return usable ? [[path, sum] as const] : [];
    }),
  );
}

async function names(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => []);
}
