import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { namesIn } from "../../common/files";
import { startTime } from "../process";
import { type Check, ok, warn } from "./check";

/** What dead processes left behind. Nothing of it is in use. */
export interface Leftovers {
  /** Shared-memory files of hosts that are gone. */
  regions: string[];
  /** Private folders of hosts that are gone. */
  folders: string[];
  /** Stubs whose host is gone. If the host was killed while it streamed, they ignore SIGTERM and keep their memory. */
  stubs: number[];
}

export interface LeftoverPlaces {
  shm?: string;
  temporary?: string[];
  proc?: string;
}

/**
 * Looks for what a killed host could not remove. The host's pid is in each name: of a region
 * (`tritonode_<pid>_...`, which is among its stub's arguments too) and of a private folder (`tritonode-<pid>-...`).
 */
export function findLeftovers(places: LeftoverPlaces = {}): Leftovers {
  const shm = places.shm ?? "/dev/shm";
  const proc = places.proc ?? "/proc";
  const temporary = places.temporary ?? [...new Set([tmpdir(), "/tmp"])];
  const regions = namesIn(shm)
    .filter((name) => isDead(/^tritonode_(\d+)_/.exec(name)?.[1]))
    .map((name) => join(shm, name));
  const folders = temporary.flatMap((folder) =>
    namesIn(folder)
      .filter((name) => isDead(/^tritonode-(\d+)-[A-Za-z0-9]{6}$/.exec(name)?.[1]))
      .map((name) => join(folder, name)),
  );
  const stubs: number[] = [];
  for (const pid of namesIn(proc).filter((name) => /^\d+$/.test(name))) {
    const words = commandLine(join(proc, pid, "cmdline"));
    if (!/\/triton_python_backend_stub$/.test(words[0] ?? "")) continue;
    const host = words.map((word) => /^\/?tritonode_(\d+)_/.exec(word)?.[1]).find((found) => found !== undefined);
    if (isDead(host)) stubs.push(Number(pid));
  }
  return { regions, folders, stubs };
}

export function checkLeftovers(found: Leftovers = findLeftovers()): Check {
  const name = "leftovers";
  const { regions, folders, stubs } = found;
  if (regions.length + folders.length + stubs.length === 0) return ok(name, "dead processes left nothing behind");
  const detail =
    `of dead processes: ${stubs.length} Python children still running, ` +
    `${regions.length} shared-memory files, ${folders.length} private folders`;
  const fix = [
    ...(stubs.length > 0 ? [`kill -9 ${stubs.join(" ")}`] : []),
    ...(regions.length > 0 ? [`rm ${regions.join(" ")}`] : []),
    ...(folders.length > 0 ? [`rm -r ${folders.join(" ")}`] : []),
  ].join("; ");
  return warn(name, detail, fix);
}

function isDead(pid: string | undefined): boolean {
  return pid !== undefined && startTime(Number(pid)) === undefined;
}

function commandLine(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\0");
  } catch {
    return [];
  }
}
