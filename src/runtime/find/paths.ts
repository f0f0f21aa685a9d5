import { existsSync, readFileSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, isAbsolute, join, resolve } from "node:path";
import { shellWord } from "../../common/shell";
import { packageRoot } from "../../package-root";
import type { Device } from "../runtime";

let version: string | undefined;

/** This package's version. A runtime belongs to exactly one version. */
export function packageVersion(): string {
  version ??= String(JSON.parse(readFileSync(join(packageRoot(), "package.json"), "utf8")).version);
  return version;
}

/**
 * The user's data folder, by the XDG Base Directory Specification 0.8: `$XDG_DATA_HOME` where it is set *and absolute*
 * (the specification says to ignore relative ones), else `~/.local/share`.
 */
export function dataDirectory(environment: NodeJS.ProcessEnv = process.env): string {
  const configured = environment.XDG_DATA_HOME;
  return configured && isAbsolute(configured) ? configured : join(environment.HOME || homedir(), ".local", "share");
}

/** `<data dir>/tritonode/<version>-<device>`. */
export function defaultDirectory(device: Device, environment: NodeJS.ProcessEnv = process.env): string {
  return join(dataDirectory(environment), "tritonode", `${packageVersion()}-${device}`);
}

/** The folder named by the caller, else by `$TRITONODE_RUNTIME_DIR`, made absolute; undefined if neither is set. */
export function namedDirectory(
  directory: string | undefined,
  environment: NodeJS.ProcessEnv = process.env,
): string | undefined {
  const named = directory ?? (environment.TRITONODE_RUNTIME_DIR || undefined);
  return named === undefined ? undefined : resolve(named);
}

/** The command that makes the runtime in question. */
export function setupCommand(options: {
  device?: Device | undefined;
  directory?: string | undefined;
  installed?: { readonly python: string } | undefined;
}): string {
  const words = ["npx", "tritonode", "setup"];
  if (options.device !== undefined) words.push("--device", options.device);
  if (options.directory !== undefined) words.push("--dir", shellWord(options.directory));
  if (options.installed !== undefined) words.push("--use-installed", "--python", shellWord(options.installed.python));
  return words.join(" ");
}

/**
 * Makes a folder and those above it. mkdir's own `recursive` is not used: if a file system answers ENOENT below a folder that
 * exists (/proc does), Node 20 tries forever, on a thread that nothing can stop.
 */
export async function makeDirectories(path: string): Promise<void> {
  const attempt = () =>
    mkdir(path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "EEXIST") throw error;
    });
  await attempt().catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" || dirname(path) === path) throw error;
    await makeDirectories(dirname(path));
    await attempt();
  });
}

/** The nearest existing folder above a path. */
export function nearestFolder(directory: string): string {
  let folder = directory;
  while (!existsSync(folder) && folder !== dirname(folder)) folder = dirname(folder);
  return folder;
}
