import { existsSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";
import { shellWord } from "../../common/shell";
import { dataDirectory, defaultDirectory } from "../find/paths";
import { type InstalledRuntime, installedRuntimes } from "../install/remove";
import { type Check, ok, warn } from "./check";

/** What stays on the disk when the npm package is uninstalled. */
export interface Stored {
  runtimes: InstalledRuntime[];
  /** Folders that Python packages and the installers keep outside a runtime. Other programs may use them too. */
  caches: string[];
}

export function findStored(environment: NodeJS.ProcessEnv = process.env): Stored {
  const home = environment.HOME || homedir();
  const configured = environment.XDG_CACHE_HOME;
  const cache = configured && isAbsolute(configured) ? configured : join(home, ".cache");
  const caches = [
    // how long loads took: src/model/load-times.ts
    join(cache, "tritonode"),
    environment.VLLM_CACHE_ROOT || join(cache, "vllm"),
    // CUDA only: the caches of its compilers
    environment.TRITON_CACHE_DIR || join(home, ".triton"),
    join(cache, "flashinfer"),
    // the installers'
    environment.PIP_CACHE_DIR || join(cache, "pip"),
    environment.UV_CACHE_DIR || join(cache, "uv"),
  ];
  return { runtimes: installedRuntimes(environment), caches: caches.filter((path) => existsSync(path)) };
}

/** Lists all of it. It is a warning if a runtime is of another version or incomplete: gigabytes that nothing uses. */
export function checkStored(stored: Stored = findStored(), environment: NodeJS.ProcessEnv = process.env): Check {
  const name = "stored";
  const { runtimes, caches } = stored;
  const usable = [defaultDirectory("cpu", environment), defaultDirectory("cuda", environment)];
  const folder = join(dataDirectory(environment), "tritonode");
  // A runtime in another place was put there on purpose, and its user passes its path.
  const unused = runtimes.filter(
    ({ directory, state }) => state === "partial" || (dirname(directory) === folder && !usable.includes(directory)),
  );
  const described = runtimes.map(({ directory, state }) => directory + (state === "partial" ? " (partial)" : ""));
  const detail = [
    runtimes.length === 0 ? "no runtime" : `runtimes: ${described.join(", ")}`,
    caches.length === 0 ? "no caches" : `caches, shared with other programs: ${caches.join(", ")}`,
  ].join("; ");
  if (unused.length === 0) return ok(name, `${detail} (they stay when the package is uninstalled)`);
  const commands = unused.map(({ directory }) => `npx tritonode remove --dir ${shellWord(directory)}`);
  return warn(name, detail, `of no use to this version: ${commands.join("; ")}`);
}
