import { lstatSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { prefix } from "./workspace";

/**
 * Removes what dead processes of this user left behind: private directories and shared memory whose names hold the pid
 * of a process that is gone, and children that outlived it. The watchdog does this when a process ends; this is for the
 * case that the watchdog was killed as well.
 *
 * @returns the paths that were removed
 */
export function sweep(temporaryDirectory: string, shmDirectory = "/dev/shm"): string[] {
  const removed: string[] = [];
  for (const [directory, pattern] of [
    [temporaryDirectory, new RegExp(`^${prefix}-(\\d+)-\\w+$`)],
    [shmDirectory, new RegExp(`^(?:sem\\.)?${prefix}_(\\d+)_[0-9a-f]+_`)],
  ] as const) {
    for (const name of list(directory)) {
      const pid = Number(pattern.exec(name)?.[1] ?? 0);
      const path = join(directory, name);
      if (pid === 0 || alive(pid) || !isMine(path)) continue;
      if (directory === temporaryDirectory) {
        killChildrenOf(path);
        removeLinked(path);
      }
      rmSync(path, { recursive: true, force: true });
      removed.push(path);
    }
  }
  return removed;
}

function list(directory: string): string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}

function isMine(path: string): boolean {
  try {
    return lstatSync(path).uid === process.getuid?.();
  } catch {
    return false;
  }
}

function alive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Ends the processes that were started with this private directory; pids alone may have been reused. */
function killChildrenOf(directory: string): void {
  for (const name of list(join(directory, "children"))) {
    const pid = Number(name);
    if (!Number.isSafeInteger(pid) || pid <= 1) continue;
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
      if (environment.includes(`TRITONODE_PRIVATE_DIR=${directory}`)) process.kill(pid, "SIGKILL");
    } catch {
      // Gone, or another user's.
    }
  }
}

/** Removes what Triton made elsewhere for this directory (native/core/owner_dead.h); alive, it does so itself. */
function removeLinked(directory: string): void {
  for (const name of list(directory)) {
    if (!name.startsWith("python_env_")) continue;
    try {
      const made = readlinkSync(join(directory, name));
      if (basename(made) === name && isMine(made)) rmSync(made, { recursive: true, force: true });
    } catch {
      // No link.
    }
  }
}
