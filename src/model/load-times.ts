import { createHash, randomBytes } from "node:crypto";
import { readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { makeDirectories } from "../runtime/find/paths";
import type { LoadProgress, VllmModelOptions } from "./load";

type Phase = LoadProgress["phase"];

/** The phases of a load in order, each with the fraction of the time at which it ends (SmolLM2 on two cores). */
const PHASES: Readonly<Record<Phase, number>> = {
  start: 0.05,
  import: 0.55,
  "check-adapters": 0.58,
  "load-model": 0.8,
  "load-adapter": 0.88,
  "warm-up": 0.98,
  ready: 1,
};
const ORDER = Object.keys(PHASES) as Phase[];

/** Milliseconds that each phase took. */
export type LoadTimes = Partial<Record<Phase, number>>;

/** The times of the last load in a new child, and of the last load in a warm child. */
export interface LastLoads {
  readonly cold?: LoadTimes;
  readonly warm?: LoadTimes;
}

/** Estimates a load's progress, from the times of an earlier load if there is one, else from typical times of the phases. */
export class LoadClock {
  readonly #times: LoadTimes = {};
  #phase: Phase = "start";
  #since = 0;
  #fraction = 0;
  #warm = false;

  /** @param last - the times of earlier loads of the same model */
  constructor(private readonly last: LastLoads) {}

  /** Call this if the load uses a warm child: it is then compared with earlier loads in warm children. */
  setWarm(): void {
    this.#warm = true;
  }

  /**
   * Reports a step of the load.
   *
   * @param elapsed - milliseconds since the load began
   * @returns the fraction that is done, 0 to 1, and never less than before; the milliseconds that remain, if the times of an
   *   earlier load are known
   */
  step(phase: Phase, elapsed: number, done?: number, total?: number): { fraction: number; remaining?: number } {
    if (phase !== this.#phase) {
      this.#times[this.#phase] = elapsed - this.#since;
      this.#phase = phase;
      this.#since = elapsed;
    }
    const part = done !== undefined && total ? done / total : 0;
    const remaining = this.#remaining(phase, elapsed - this.#since, part);
    const fraction = remaining === undefined ? usual(phase, part) : elapsed / (elapsed + remaining || 1);
    this.#fraction = phase === "ready" ? 1 : Math.max(this.#fraction, Math.min(fraction, 0.99));
    return { fraction: this.#fraction, ...(remaining === undefined ? {} : { remaining }) };
  }

  /** Returns the times of this load, which was ready at `elapsed`, together with its kind. */
  times(elapsed: number): LastLoads {
    const times = { ...this.#times, ...(this.#phase === "ready" ? {} : { [this.#phase]: elapsed - this.#since }) };
    return this.#warm ? { warm: times } : { cold: times };
  }

  #remaining(phase: Phase, inPhase: number, part: number): number | undefined {
    const { cold, warm } = this.last;
    const last = this.#warm ? (warm ?? cold) : (cold ?? warm);
    if (last === undefined) return undefined;
    const own = last[phase] ?? 0;
    const later = ORDER.slice(ORDER.indexOf(phase) + 1).reduce((sum, each) => sum + (last[each] ?? 0), 0);
    return (part > 0 ? own * (1 - part) : Math.max(0, own - inPhase)) + later;
  }
}

function usual(phase: Phase, part: number): number {
  const before = ORDER[ORDER.indexOf(phase) - 1];
  const from = before === undefined ? 0 : PHASES[before];
  return from + (PHASES[phase] - from) * part;
}

/** The maximum number of models whose times are kept. */
const KEPT = 64;

/** The folder with the times of earlier loads: `$XDG_CACHE_HOME/tritonode/load-times`, by default below `~/.cache`. */
export function loadTimesFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const configured = environment["XDG_CACHE_HOME"];
  const cache = configured && isAbsolute(configured) ? configured : join(environment["HOME"] || homedir(), ".cache");
  return join(cache, "tritonode", "load-times");
}

/** The file for loads of one model with the same settings on one device. */
function fileFor(options: VllmModelOptions, device: string): string {
  const { engine, loras, modelRepository, model } = options;
  // Paths in the object form are relative to the working directory.
  const what = modelRepository === undefined ? [process.cwd(), engine, loras] : [resolve(modelRepository), model];
  const key = createHash("sha256")
    .update(JSON.stringify([device, what]))
    .digest("hex");
  return join(loadTimesFolder(), `${key.slice(0, 24)}.json`);
}

/** Reads the times of the last loads of this model on this machine; empty if there are none, or if they can't be read. */
export async function readLoadTimes(options: VllmModelOptions, device: string): Promise<LastLoads> {
  try {
    const { cold, warm } = JSON.parse(await readFile(fileFor(options, device), "utf8")) as Record<string, unknown>;
    return { ...known("cold", cold), ...known("warm", warm) };
  } catch {
    return {};
  }
}

function known(kind: keyof LastLoads, read: unknown): LastLoads {
  if (typeof read !== "object" || read === null) return {};
  const times = Object.entries(read).filter(
    ([phase, time]) => Object.hasOwn(PHASES, phase) && Number.isFinite(time) && time >= 0,
  );
  return times.length === 0 ? {} : { [kind]: Object.fromEntries(times) };
}

/** Saves the times of a load for the next one, next to those of the other kind. If the folder can't be written, nothing is saved. */
export async function keepLoadTimes(options: VllmModelOptions, device: string, times: LastLoads): Promise<void> {
  const folder = loadTimesFolder();
  const temporary = join(folder, randomBytes(8).toString("hex"));
  try {
    const file = fileFor(options, device);
    await makeDirectories(folder);
    await writeFile(temporary, JSON.stringify({ ...(await readLoadTimes(options, device)), ...times }));
    await rename(temporary, file);
    const names = await readdir(folder);
    if (names.length <= KEPT) return;
    const aged = await Promise.all(
      names.map(async (name) => ({ name, time: (await stat(join(folder, name))).mtimeMs })),
    );
    aged.sort((one, other) => one.time - other.time);
    await Promise.all(aged.slice(0, -KEPT).map(({ name }) => rm(join(folder, name), { force: true })));
  } catch {
    await rm(temporary, { force: true }).catch(() => {});
  }
}
