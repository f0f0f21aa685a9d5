import { existsSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { describeHost, type Host, hostObstacle, type Obstacle, thisHost } from "../host";

/** A place where the addon was looked for, and why it was not loaded from there. */
export interface FailedCandidate {
  readonly path: string;
  readonly reason: string;
}

/** The paths where the addon may lie, best first: what the user built here, then what came with the package. */
export function addonCandidates(root: string, { platform, arch }: Host = thisHost()): string[] {
  // A folder that was copied from Linux, node_modules included, has an addon that another system can't load.
  if (platform !== "linux") return [];
  return [
    join(root, "build", "Release", "tritonode.node"),
    join(root, "build", "Debug", "tritonode.node"),
    // The name is prebuildify's: --tag-libc.
    join(root, "prebuilds", `${platform}-${arch}`, "tritonode.glibc.node"),
  ];
}

/**
 * The library that makes a stub wait (native/warm_child/preload.cc), beside each addon that is there: a build leaves an older
 * one in a folder without an addon.
 */
export function warmLibraryCandidates(root: string, host: Host = thisHost()): string[] {
  return addonCandidates(root, host)
    .filter((path) => existsSync(path))
    .map((path) => join(dirname(path), "libtritonode_warm.so"));
}

/**
 * Loads the first candidate that loads.
 *
 * @returns what it exports, or for each candidate why it did not load.
 */
export function openAddon<T>(candidates: readonly string[], load: (path: string) => T): T | FailedCandidate[] {
  const failed: FailedCandidate[] = [];
  for (const path of candidates) {
    if (!existsSync(path)) {
      failed.push({ path, reason: "no such file" });
      continue;
    }
    try {
      // By its real path: npm and pnpm reach a package through links, and one file must be one addon to the process.
      return load(realpathSync(path));
    } catch (error) {
      failed.push({ path, reason: firstLine(error) });
    }
  }
  return failed;
}

/** The whole explanation: what is in the way, each candidate on a line of its own, and what to do on this machine. */
export function explainFailure(failed: readonly FailedCandidate[], root: string, host: Host = thisHost()): Obstacle {
  const obstacle = hostObstacle(host);
  // On another platform there is nothing to try, so nothing to list.
  if (obstacle !== undefined && host.platform !== "linux") return obstacle;
  const found = failed.filter(({ reason }) => reason !== "no such file");
  const cause = obstacle ?? found.map((candidate) => recognise(candidate, host)).find(Boolean) ?? fallback(found, root);
  const lines = failed.map(({ path, reason }) => `\n  ${path}: ${reason}`);
  return {
    reason: `${cause.reason}\n(${describeHost(host)}, Node ${process.versions.node}); tried:${lines.join("")}`,
    hint: cause.hint,
  };
}

/** What the dynamic loader's words mean, where they are known. */
function recognise({ path, reason }: FailedCandidate, host: Host): Obstacle | undefined {
  const missing = /version [`'](GLIBC|GLIBCXX|CXXABI)_([\d.]+)' not found/.exec(reason);
  if (missing?.[1] === "GLIBC") {
    return {
      reason: `the native addon needs glibc ${missing[2]}, and this Linux has ${host.glibc ?? "none"}`,
      hint: "use Ubuntu 22.04, Debian 12 or later, or a container of one of them; or build it here: npx tritonode build",
    };
  }
  if (missing !== null) {
    return {
      reason: `the native addon needs a later libstdc++ (${missing[1]}_${missing[2]})`,
      hint: "install libstdc++ of GCC 12 or later, or build the addon with this machine's compiler: npx tritonode build",
    };
  }
  if (/wrong ELF class|invalid ELF header|file too short|cannot open shared object file: No such file/i.test(reason)) {
    return {
      reason: `${path} is damaged or was made for another machine`,
      hint: `on this machine: npm install tritonode, or build it here: npx tritonode build`,
    };
  }
  if (/failed to map segment|Operation not permitted/i.test(reason)) {
    return {
      reason: `${path} may not be executed: it lies on a file system that is mounted noexec`,
      hint: "install the package on another file system, or mount that one with exec",
    };
  }
  return undefined;
}

function fallback(found: readonly FailedCandidate[], root: string): Obstacle {
  if (found.length > 0) {
    return { reason: "the native addon could not be loaded", hint: "build it here: npx tritonode build" };
  }
  return {
    reason: `${root} holds no native addon`,
    // A bundler that took the JavaScript alone is the usual cause.
    hint: "leave tritonode out of the bundle and copy its folder whole (docs/guides/bundlers.md), or build it: npx tritonode build",
  };
}

function firstLine(error: unknown): string {
  const { message } = error instanceof Error ? error : new Error(String(error));
  return message.split("\n")[0] ?? "";
}
