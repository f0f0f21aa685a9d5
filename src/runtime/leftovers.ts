import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Check, ok, warn } from "./check";
import { startTime } from "./process";

/** What dead processes left behind; nothing in it is in use. */
export interface Leftovers {
  /** Shared-memory files of hosts that are gone. */
  regions: string[];
  /** Private folders that no process has open. */
  folders: string[];
  /** Stubs whose host is gone: killed while it streamed, they ignore SIGTERM and keep their memory. */
  stubs: number[];
}

export interface LeftoverPlaces {
  shm?: string;
  temporary?: string[];
  proc?: string;
}

/** A private folder younger than this may belong to a server that is just starting, ms. */
const GRACE_MS = 60_000;

/**
 * Looks for what a killed host could not clear away. The host's pid stands in the name of each region
 * (`tritonode_<pid>_...`) and in each stub's arguments; a folder is in use while a process holds something in it open.
 */
export function findLeftovers(places: LeftoverPlaces = {}): Leftovers {
  const shm = places.shm ?? "/dev/shm";
  const proc = places.proc ?? "/proc";
  const temporary = places.temporary ?? [...new Set([tmpdir(), "/tmp"])];
  const regions = list(shm)
    .filter((name) => isDead(/^tritonode_(\d+)_/.exec(name)?.[1]))
    .map((name) => join(shm, name));
  const stubs: number[] = [];
  const open = new Set<string>();
  for (const pid of list(proc).filter((name) => /^\d+$/.test(name))) {
    const words = read(join(proc, pid, "cmdline")).split("\0");
    const isStub = /\/triton_python_backend_stub$/.test(words[0] ?? "");
    const host = words.map((word) => /^\/?tritonode_(\d+)_/.exec(word)?.[1]).find((found) => found !== undefined);
    if (isStub && isDead(host)) stubs.push(Number(pid));
    for (const file of list(join(proc, pid, "fd"))) {
      const folder = privateFolder(link(join(proc, pid, "fd", file)));
      if (folder !== undefined) open.add(folder);
    }
  }
  const folders = temporary
    .flatMap((folder) => list(folder).map((name) => join(folder, name)))
    .filter((path) => privateFolder(path) === path && !open.has(path) && isOld(path));
  return { regions, folders, stubs };
}

export function checkLeftovers(found: Leftovers = findLeftovers()): Check {
  const name = "leftovers";
  const { regions, folders, stubs } = found;
  if (regions.length + folders.length + stubs.length === 0) return ok(name, "none of dead processes");
  const detail = [
    ...(stubs.length > 0 ? [`${stubs.length} Python children without a host`] : []),
    ...(regions.length > 0 ? [`${regions.length} shared-memory files`] : []),
    ...(folders.length > 0 ? [`${folders.length} temporary folders`] : []),
  ].join(", ");
  const mend = [
    ...(stubs.length > 0 ? [`kill -9 ${stubs.join(" ")}`] : []),
    ...(regions.length > 0 ? [`rm ${regions.join(" ")}`] : []),
    ...(folders.length > 0 ? [`rm -r ${folders.join(" ")}`] : []),
  ].join("; ");
  return warn(name, detail, mend);
}

/** The `<somewhere>/tritonode-XXXXXX` that a path lies in or is: the six characters are mkdtemp(3)'s. */
function privateFolder(path: string | undefined): string | undefined {
  return /^(.*?\/tritonode-(?:setup-)?[A-Za-z0-9]{6})(?:\/|$)/.exec(path ?? "")?.[1];
}

function isDead(pid: string | undefined): boolean {
  return pid !== undefined && startTime(Number(pid)) === undefined;
}

function isOld(path: string): boolean {
  try {
    return Date.now() - statSync(path).mtimeMs > GRACE_MS;
  } catch {
    return false;
  }
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return []; // gone, or another user's
  }
}

function link(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}
