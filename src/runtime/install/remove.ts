import { createHash, randomBytes } from "node:crypto";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { lstat, opendir, readdir, readlink, realpath, rename, rm, rmdir, symlink, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { SetupError } from "../errors";
import { removeManifest } from "../find/manifest";
import { dataDirectory, makeDirectories } from "../find/paths";
import { contentsOf } from "./contents";
import { acquireLock, lockHolder } from "./lock";

/** A runtime on this disk, of any version of tritonode. */
export interface InstalledRuntime {
  directory: string;
  state: "complete" | "partial";
}

export interface Removed {
  directory: string;
  /** Names in the folder that setup did not make: they are kept, and so is the folder. */
  kept: string[];
}

/** The folder, in the user's data folder, of links to runtimes in other places, so that they can be found after an uninstall. */
const ELSEWHERE = "elsewhere-";

function usualFolder(environment: NodeJS.ProcessEnv): string {
  return join(dataDirectory(environment), "tritonode");
}

function linkTo(directory: string, environment: NodeJS.ProcessEnv): string {
  const name = createHash("sha256").update(directory).digest("hex").slice(0, 12);
  return join(usualFolder(environment), `${ELSEWHERE}${name}`);
}

/** Records a runtime that was made outside the data folder. A home folder that can't be written does not fail the setup. */
export async function remember(directory: string, environment: NodeJS.ProcessEnv = process.env): Promise<void> {
  const folder = usualFolder(environment);
  await forgetRemoved(environment);
  if (dirname(directory) === folder) return;
  await makeDirectories(folder)
    .then(() => symlink(directory, linkTo(directory, environment)))
    .catch(() => {});
}

/** Deletes the links to runtimes that are gone: somebody has deleted their folders without `tritonode remove`. */
export async function forgetRemoved(environment: NodeJS.ProcessEnv = process.env): Promise<void> {
  const folder = usualFolder(environment);
  const names = await readdir(folder).catch(() => []);
  for (const name of names.filter((each) => each.startsWith(ELSEWHERE))) {
    const link = join(folder, name);
    try {
      if (contentsOf(await readlink(link)).state === "none") await unlink(link);
    } catch {
      // Not a link, or one into a folder that this user may not read: it may be a runtime.
    }
  }
}

/** The runtimes of every version: in the user's data folder, and those elsewhere that setup has remembered there. */
export function installedRuntimes(environment: NodeJS.ProcessEnv = process.env): InstalledRuntime[] {
  const folder = usualFolder(environment);
  let names: string[];
  try {
    names = readdirSync(folder);
  } catch {
    return []; // there was never a setup
  }
  return names.sort().flatMap((name) => {
    try {
      const directory = name.startsWith(ELSEWHERE) ? readlinkSync(join(folder, name)) : join(folder, name);
      const { state } = contentsOf(directory);
      return state === "none" ? [] : [{ directory, state }];
    } catch {
      return []; // a file, or another user's
    }
  });
}

/** @throws {@link SetupError} `ERR_SETUP_DIRECTORY` if there is no runtime in the folder. */
export function requireRemovable(directory: string): void {
  const target = resolve(directory);
  if (contentsOf(target).state !== "none") return;
  throw new SetupError(`there is no runtime in ${target}`, {
    code: "ERR_SETUP_DIRECTORY",
    hint: "only a folder that `tritonode setup` made is removed; `npx tritonode doctor` lists them",
  });
}

/**
 * Deletes the runtime in a folder: what `setup` made, and the folder itself if nothing else is in it. The manifest goes
 * first, so that an interrupted removal leaves nothing that looks complete.
 *
 * @throws {@link SetupError} `ERR_SETUP_DIRECTORY` if there is no runtime, `ERR_SETUP_LOCKED` if a setup is working on
 *   it, `ERR_RUNTIME_IN_USE` if a running process uses it.
 */
export async function remove(directory: string, environment: NodeJS.ProcessEnv = process.env): Promise<Removed> {
  const target = resolve(directory);
  requireRemovable(target);
  const holder = await lockHolder(target);
  if (holder !== undefined) throw locked(target, holder);
  const waiting = new AbortController();
  let other = 0;
  const lock = await acquireLock(target, {
    signal: waiting.signal,
    onWait: (pid) => {
      other = pid;
      waiting.abort();
    },
  }).catch((error) => {
    throw other === 0 ? error : locked(target, other);
  });
  try {
    const users = usersOf(await realpath(target));
    if (users.length > 0) {
      throw new SetupError(`the runtime in ${target} is in use by process ${users.join(", ")}`, {
        code: "ERR_RUNTIME_IN_USE",
        hint: "dispose of its models, or end these processes, and run the same command again",
      });
    }
    const { ours } = contentsOf(target);
    await removeManifest(target);
    for (const name of ours.filter((entry) => entry !== "lock" && entry !== "manifest.json")) {
      // Renamed to a name that setup clears away, because the venv's mark may be among the first files to be deleted.
      const scratch = join(target, `scratch-${randomBytes(3).toString("hex")}`);
      await rename(join(target, name), scratch).catch(ignoreMissing);
      await rm(scratch, { recursive: true, force: true, maxRetries: 3 });
    }
  } finally {
    await lock.release();
  }
  const kept = contentsOf(target).foreign;
  if (kept.length === 0) await rmdir(target).catch(() => {});
  await forgetRemoved(environment);
  return { directory: target, kept };
}

/** Bytes on disk below a folder; links are not followed. */
export async function diskUsage(directory: string): Promise<number> {
  let bytes = 0;
  for await (const entry of await opendir(directory)) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) bytes += await diskUsage(path);
    else bytes += (await lstat(path)).blocks * 512;
  }
  return bytes;
}

/** This user's processes that run a program of the runtime or have mapped its libraries. */
function usersOf(directory: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => {
      try {
        const program = readlinkSync(`/proc/${pid}/exe`);
        return (
          program.startsWith(`${directory}/`) || readFileSync(`/proc/${pid}/maps`, "utf8").includes(` ${directory}/`)
        );
      } catch {
        return false; // it has exited, or belongs to another user
      }
    })
    .map(Number);
}

/** The temporary file of another process's lock may vanish at any time. */
function ignoreMissing(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOENT") throw error;
}

function locked(directory: string, pid: number): SetupError {
  return new SetupError(`process ${pid} is setting up ${directory}`, {
    code: "ERR_SETUP_LOCKED",
    hint: `wait until it is done, or end it: kill ${pid}`,
  });
}
