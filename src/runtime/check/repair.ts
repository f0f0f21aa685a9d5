import { rmSync } from "node:fs";
import { join } from "node:path";
import type { FindRuntimeOptions } from "../find/find";
import { readManifest } from "../find/manifest";
import { defaultDirectory, namedDirectory } from "../find/paths";
import { compile } from "../install/compile";
import { setup } from "../install/setup";
import type { Device } from "../runtime";
import type { Check } from "./check";
import { findLeftovers, type LeftoverPlaces } from "./leftovers";

/** Something that `doctor --fix` can do. */
export interface Repair {
  /** What it will do, for the question before it. */
  readonly what: string;
  run(): Promise<void>;
}

export interface RepairOptions extends FindRuntimeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Gets what is being done, in a few words. */
  readonly onStep?: ((step: string) => void) | undefined;
  /** Where leftovers are looked for; default: this machine's own places. */
  readonly places?: LeftoverPlaces | undefined;
}

/** Checks whose failure means that a part of the runtime is gone or has been changed. */
const ofRuntime = new Set(["runtime", "Python", "libpython", "Triton's stub", "numpy", "torchvision", "vLLM"]);

/**
 * What can be done about the checks that did not pass. The rest needs a person: other software, another machine, a decision.
 *
 * @param checks - those of {@link doctor}
 */
export async function repairsFor(checks: readonly Check[], options: RepairOptions = {}): Promise<Repair[]> {
  const repairs: Repair[] = [];
  const wrong = (name: string) => checks.some((check) => check.name === name && check.status !== "ok");
  if (wrong("leftovers")) repairs.push(removeLeftovers(options.places));
  if (wrong("addon")) {
    repairs.push({
      what: "build the native addon from the package's sources",
      run: async () => void (await compile({ signal: options.signal, onProgress: (file) => options.onStep?.(file) })),
    });
  }
  const broken = checks.filter(({ name, status }) => status === "fail" && ofRuntime.has(name));
  // What the runtime was made without: then the rest of it is whole, and stays.
  const lacking = broken.flatMap(({ fix }) => /--with ([a-z,]+)/.exec(fix ?? "")?.[1]?.split(",") ?? []);
  if (broken.length > 0) repairs.push(await remake(options, lacking));
  return repairs;
}

function removeLeftovers(places: LeftoverPlaces | undefined): Repair {
  const { stubs, regions, folders } = findLeftovers(places);
  const parts = [
    ...(stubs.length === 0 ? [] : [`end ${stubs.length} Python children of dead processes (${stubs.join(", ")})`]),
    ...(regions.length === 0 ? [] : [`remove ${regions.length} shared-memory files (${regions.join(", ")})`]),
    ...(folders.length === 0 ? [] : [`remove ${folders.length} private folders (${folders.join(", ")})`]),
  ];
  return {
    what: parts.join("; ") || "nothing: the leftovers have gone meanwhile",
    async run() {
      // Looked for again: a pid may have been given to another process since.
      const now = findLeftovers(places);
      for (const pid of now.stubs) if (stubs.includes(pid)) end(pid);
      for (const path of [...now.regions, ...now.folders]) {
        if (regions.includes(path) || folders.includes(path)) rmSync(path, { recursive: true, force: true });
      }
    },
  };
}

function end(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    // It has ended by itself.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Makes the runtime, makes it again with what it had, or adds what it lacks. */
async function remake(options: RepairOptions, lacking: readonly string[]): Promise<Repair> {
  const device: Device = options.device ?? "cpu";
  const directory = namedDirectory(options.directory) ?? defaultDirectory(device);
  const manifest = await readManifest(directory, options.device).catch(() => undefined);
  const how = manifest === undefined ? "" : lacking.length === 0 ? " again" : ` with ${lacking.join(", ")}`;
  return {
    what: `set the runtime up${how} in ${directory} (downloads what it needs, some minutes)`,
    async run() {
      // While it is there the runtime counts as complete.
      if (manifest !== undefined && lacking.length === 0) rmSync(join(directory, "manifest.json"), { force: true });
      await setup({
        device: manifest?.device ?? device,
        directory,
        extras: [...new Set([...Object.keys(manifest?.extras ?? {}), ...lacking])],
        triton: options.triton ?? manifest?.triton.installed,
        ...(manifest?.installed === undefined ? {} : { useInstalled: true, python: manifest.installed.python }),
        signal: options.signal,
        onProgress: ({ message }) => options.onStep?.(message),
      });
    },
  };
}
