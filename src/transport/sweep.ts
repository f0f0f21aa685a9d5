import { lstatSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { namesIn } from "../common/files";
import type { Addon } from "../native/binding";
import { prefix } from "./workspace";

/** Milliseconds after which a starting server certainly holds its locks. */
const unlockedAge = 3_600_000;

/**
 * Removes what dead processes of this user left behind: private directories, shared memory, and children that outlived
 * their host. The reaper does this when a process exits; this function is for the case that the reaper was killed as well.
 *
 * A lock shows whether the owner is alive (native/process/owner_lock.h). The pid in the name does not: in another PID
 * namespace it is the pid of another process, or of none.
 *
 * @returns the paths that were removed
 */
export function sweep(addon: Pick<Addon, "ownerOf">, temporaryDirectory: string, shmDirectory = "/dev/shm"): string[] {
  const removed: string[] = [];
  const remove = (path: string) => {
    rmSync(path, { recursive: true, force: true });
    removed.push(path);
  };
  for (const { name, pid } of find(temporaryDirectory, new RegExp(`^${prefix}-(\\d+)-\\w+$`))) {
    const path = join(temporaryDirectory, name);
    if (!isMine(path) || !isLeft(addon, join(path, "owner"), pid, path)) continue;
    killChildrenOf(path);
    removeLinked(path);
    remove(path);
  }
  const left = new Map<string, boolean>();
  const regions = find(shmDirectory, new RegExp(`^(?:sem\\.)?${prefix}_(\\d+)_[0-9a-f]+_`));
  const locks: string[] = [];
  for (const { name, pid, start } of regions) {
    const path = join(shmDirectory, name);
    if (!isMine(path)) continue;
    const lock = join(shmDirectory, `${start.replace(/^sem\./, "")}owner`);
    if (!left.has(lock)) left.set(lock, isLeft(addon, lock, pid, path));
    if (left.get(lock) !== true) continue;
    // The lock is removed last: without it, the leftovers of an interrupted sweep would count as unlocked.
    if (path === lock) locks.push(path);
    else remove(path);
  }
  for (const path of locks) remove(path);
  return removed;
}

function find(directory: string, pattern: RegExp): { name: string; pid: number; start: string }[] {
  return namesIn(directory).flatMap((name) => {
    const found = pattern.exec(name);
    return found === null ? [] : [{ name, pid: Number(found[1]), start: found[0] }];
  });
}

/** A directory without a lock belongs to a server that is just starting, or to one that was killed before it had the lock. */
function isLeft(addon: Pick<Addon, "ownerOf">, lock: string, pid: number, path: string): boolean {
  const owner = addon.ownerOf(lock);
  if (owner !== undefined) return owner === "gone";
  try {
    return !alive(pid) && Date.now() - lstatSync(path).mtimeMs > unlockedAge;
  } catch {
    return false;
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
  for (const name of namesIn(join(directory, "children"))) {
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

/** Removes what Triton made elsewhere for this directory (native/python_backend/own_files.h); alive, it does so itself. */
function removeLinked(directory: string): void {
  for (const name of namesIn(directory)) {
    if (!name.startsWith("python_env_")) continue;
    try {
      const made = readlinkSync(join(directory, name));
      if (basename(made) === name && isMine(made)) rmSync(made, { recursive: true, force: true });
    } catch {
      // It is not a link.
    }
  }
}
