import { execFileSync, type SpawnSyncReturns, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./paths";

/** The Nodes and package managers of `npm run matrix:node` (scripts/matrix.mjs); in `npm test` this Node and npm alone. */
export interface Matrix {
  nodes: Record<string, string>;
  pnpm?: string;
  yarn?: string;
  berry?: string;
  /** Packed in a clean clone, by `prepack`. */
  tarball?: string;
}

export const matrix: Matrix =
  process.env["TRITONODE_MATRIX"] === undefined
    ? { nodes: { [process.version]: process.execPath } }
    : (JSON.parse(readFileSync(process.env["TRITONODE_MATRIX"], "utf8")) as Matrix);

/** npm's own program: what runs this script, else the one on PATH. */
export const npm =
  process.env["npm_execpath"] ??
  execFileSync("sh", ["-c", 'readlink -f "$(command -v npm)"'], { encoding: "utf8" }).trim();

/** What a user's machine has on its PATH beside Node: Triton and this package start shells, vLLM lscpu. No compiler. */
const PROGRAMS = ["sh", "bash", "lscpu"];

/** A machine with one Node, no compiler, no Python and an empty npm cache; nothing of this process's npm settings. */
export class Machine {
  readonly #node: string;
  readonly #bin: string;
  readonly environment: NodeJS.ProcessEnv;

  constructor(folder: string, node: string) {
    this.#node = node;
    const bin = join(folder, "bin");
    this.#bin = bin;
    mkdirSync(bin, { recursive: true });
    symlinkSync(node, join(bin, "node"));
    this.provide(...PROGRAMS);
    const kept = ["HOME", "TRITONODE_RUNTIME_DIR", "TMPDIR", "LANG"].flatMap((name) =>
      process.env[name] === undefined ? [] : [[name, process.env[name]]],
    );
    this.environment = {
      ...Object.fromEntries(kept),
      PATH: bin,
      NO_COLOR: "1",
      npm_config_cache: join(folder, "npm cache"),
      npm_config_update_notifier: "false",
      // pnpm and yarn keep their caches in the user's folder.
      XDG_CACHE_HOME: join(folder, "cache"),
      XDG_DATA_HOME: join(folder, "data"),
      XDG_STATE_HOME: join(folder, "state"),
      YARN_CACHE_FOLDER: join(folder, "yarn cache"),
      YARN_GLOBAL_FOLDER: join(folder, "yarn global"),
      YARN_ENABLE_TELEMETRY: "0",
    };
    // The runtime is found under XDG_DATA_HOME as well.
    this.environment["TRITONODE_RUNTIME_DIR"] ??= join(process.env["HOME"] ?? "", ".local/share/tritonode/0.1.0-cpu");
  }

  /** Puts programs of this machine on its PATH. */
  provide(...names: string[]): void {
    for (const name of names) {
      const path = execFileSync("sh", ["-c", `command -v ${name}`], { encoding: "utf8" }).trim();
      symlinkSync(path, join(this.#bin, name));
    }
  }

  /** Runs Node with these arguments. */
  node(cwd: string, ...args: string[]): SpawnSyncReturns<string> {
    return spawnSync(this.#node, args, { cwd, encoding: "utf8", env: this.environment });
  }

  /** The same without the right to write what is not this user's to write: root may write everything otherwise. */
  unprivileged(cwd: string, ...args: string[]): SpawnSyncReturns<string> {
    if (process.getuid?.() !== 0) return this.node(cwd, ...args);
    const drop = ["--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all", this.#node, ...args];
    return spawnSync("/usr/bin/setpriv", drop, { cwd, encoding: "utf8", env: this.environment });
  }
}

/** Packs the tarball that would be published. */
export function pack(folder: string): string {
  if (matrix.tarball !== undefined) return matrix.tarball;
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { version: string };
  // What the package holds was built before vitest started (scripts/steps.mjs); matrix.mjs runs `prepack` as well.
  execFileSync(process.execPath, [npm, "pack", root, "--ignore-scripts", "--pack-destination", folder], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  return join(folder, `tritonode-${version}.tgz`);
}

/** An application's folder with a package.json of its own. */
export function application(path: string, manifest: object = {}): string {
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, "package.json"), JSON.stringify({ name: "app", private: true, ...manifest }));
  return path;
}
