import { randomBytes } from "node:crypto";
import { link, readFile, rename, unlink, writeFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { SetupCancelledError, SetupError } from "../errors";
import { killGroup, startTime } from "../process";

interface Owner {
  pid: number;
  /** {@link startTime} of `pid`: a reused pid is not the owner. */
  startTime: string | undefined;
  host: string;
  /** The installer that the owner has started: it outlives an owner that was killed. */
  child?: { pid: number; startTime: string | undefined };
}

export interface Lock {
  /** Records the running installer, so that after a SIGKILL the next owner can end it first. */
  setChild(pid: number): Promise<void>;
  release(): Promise<void>;
}

export interface LockOptions {
  signal?: AbortSignal | undefined;
  /** Called once when another live process holds the lock, with its pid. */
  onWait?: (pid: number) => void;
  /** Milliseconds between checks. */
  interval?: number;
}

/**
 * Acquires `<directory>/lock`, and waits as long as a live process holds it. The file appears with its content in one step
 * (link(2)) and contains the owner's pid and start time. When that process is gone, the lock is free.
 *
 * @throws {@link SetupCancelledError} when `signal` fires while waiting; {@link SetupError} when the lock was made on
 *   another machine (a shared disk), whose processes can't be examined.
 */
export async function acquireLock(directory: string, options: LockOptions = {}): Promise<Lock> {
  const path = join(directory, "lock");
  const owner: Owner = { pid: process.pid, startTime: startTime(process.pid), host: hostname() };
  let waited = false;
  for (;;) {
    if (options.signal?.aborted) throw new SetupCancelledError(options.signal.reason);
    if (await create(path, owner)) return held(path, owner);
    const text = await readFile(path, "utf8").catch(() => undefined);
    if (text === undefined) continue;
    const other = parse(text);
    if (other !== undefined && other.host !== owner.host) {
      throw new SetupError(`another machine, ${other.host}, is setting up ${directory} (process ${other.pid})`, {
        code: "ERR_SETUP_LOCKED",
        hint: `if it no longer runs there, remove ${path}`,
      });
    }
    if (other !== undefined && isAlive(other)) {
      if (!waited) options.onWait?.(other.pid);
      waited = true;
      await sleep(options.interval ?? 250, undefined, options.signal ? { signal: options.signal } : {}).catch(() => {});
      continue;
    }
    await takeOver(path, text, other);
  }
}

/** The pid of the live process that holds the lock, if any. */
export async function lockHolder(directory: string): Promise<number | undefined> {
  const text = await readFile(join(directory, "lock"), "utf8").catch(() => undefined);
  const owner = text === undefined ? undefined : parse(text);
  return owner !== undefined && owner.host === hostname() && isAlive(owner) ? owner.pid : undefined;
}

async function create(path: string, owner: Owner): Promise<boolean> {
  const temporary = `${path}.${process.pid}.${randomBytes(4).toString("hex")}`;
  await writeFile(temporary, JSON.stringify(owner));
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  } finally {
    await unlink(temporary).catch(() => {});
  }
}

/** Removes a dead owner's lock, and only that one: the file is moved aside and checked before it is deleted. */
async function takeOver(path: string, expected: string, owner: Owner | undefined): Promise<void> {
  const aside = `${path}.${process.pid}.${randomBytes(4).toString("hex")}`;
  try {
    await rename(path, aside);
  } catch {
    return; // another waiter was faster
  }
  if ((await readFile(aside, "utf8")) !== expected) {
    // a third process has acquired the lock in between: put it back
    await link(aside, path).catch(() => {});
  } else if (owner?.child?.startTime !== undefined && startTime(owner.child.pid) === owner.child.startTime) {
    killGroup(owner.child.pid, "SIGKILL");
  }
  await unlink(aside).catch(() => {});
}

function held(path: string, owner: Owner): Lock {
  let writing = Promise.resolve();
  let released = false;
  return {
    setChild(pid) {
      writing = writing.then(async () => {
        // a late call must not create the file again
        if (released) return;
        const temporary = `${path}.${process.pid}.${randomBytes(4).toString("hex")}`;
        await writeFile(temporary, JSON.stringify({ ...owner, child: { pid, startTime: startTime(pid) } }));
        await rename(temporary, path);
      });
      return writing;
    },
    async release() {
      released = true;
      await writing.catch(() => {});
      await unlink(path).catch(() => {});
    },
  };
}

function isAlive(owner: Owner): boolean {
  const started = startTime(owner.pid);
  return started !== undefined && (owner.startTime === undefined || started === owner.startTime);
}

function parse(text: string): Owner | undefined {
  try {
    const value = JSON.parse(text) as Owner;
    return Number.isInteger(value.pid) && typeof value.host === "string" ? value : undefined;
  } catch {
    return undefined;
  }
}
