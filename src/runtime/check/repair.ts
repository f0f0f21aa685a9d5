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
  /** What it will do, for the question that is asked first. */
  readonly what: string;
  run(): Promise<void>;
}

export interface RepairOptions extends FindRuntimeOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called with what is being done, in a few words. */
  readonly onStep?: ((step: string) => void) | undefined;
  /** Where to look for leftovers. Default: this machine's usual places. */
  readonly places?: LeftoverPlaces | undefined;
}

/** The checks whose failure means that a part of the runtime is missing or was changed. */
const ofRuntime = new Set(["runtime", "Python", "libpython", "Triton's stub", "numpy", "torchvision", "vLLM"]);

/**
 * The repairs for the checks that did not pass. Everything else needs a person: other software, another machine, a decision.
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
  // A package is missing that the runtime was made without. Everything else is in order, and stays.
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
      // The leftovers are looked up again, because a pid may have been reused since.
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
    // It has exited by itself.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** Makes the runtime, makes it again with the same packages, or adds what it lacks. */
async function remake(options: RepairOptions, lacking: readonly string[]): Promise<Repair> {
  const device: Device = options.device ?? "cpu";
  const directory = namedDirectory(options.directory) ?? defaultDirectory(device);
  const manifest = await readManifest(directory, options.device).catch(() => undefined);
  const how = manifest === undefined ? "" : lacking.length === 0 ? " again" : ` with ${lacking.join(", ")}`;
  return {
    what: `set the runtime up${how} in ${directory} (downloads what it needs, some minutes)`,
    async run() {
      // While the manifest exists, the runtime counts as complete.
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
