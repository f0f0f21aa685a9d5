import { callback } from "../common/callbacks";
import { Emitter } from "../common/emitter";
import type { Device } from "../runtime";
import type { Logger } from "../server";
import { type AdapterEvent, type ModelEvents, modelEvents, publish } from "./events";
import { type LoadProgress, loggerFor, type ProgressLine, type VllmModelOptions } from "./load";
import { keepLoadTimes, LoadClock, readLoadTimes } from "./load-times";
import type { RestartEvent } from "./restart";

/** Reports a model's progress while it loads, its log, and its events afterwards. */
export class LoadReport {
  readonly events = new Emitter<ModelEvents>(modelEvents);
  /** Receives the server's log: handles lines about progress and adapters, and passes on the others. */
  readonly logger: Logger;
  readonly #name: string;
  readonly #options: VllmModelOptions;
  readonly #device: Device;
  readonly #began = performance.now();
  #clock: LoadClock | undefined;

  constructor(name: string, options: VllmModelOptions, device: Device) {
    this.#name = name;
    this.#options = options;
    this.#device = device;
    const pass = (level: keyof Logger) => (message: string) => {
      options.logger?.[level](message);
      this.events.emit("log", { level, message });
    };
    const logger = { debug: pass("debug"), info: pass("info"), warn: pass("warn"), error: pass("error") };
    this.logger = loggerFor(name, logger, (line) => this.#read(line));
  }

  async begin(): Promise<void> {
    if (this.#options.onProgress !== undefined) {
      this.#clock = new LoadClock(await readLoadTimes(this.#options, this.#device));
    }
    this.#progress({ phase: "start" });
  }

  /** Saves how long the phases took, for the estimate of the next load. */
  async end(): Promise<void> {
    if (this.#clock === undefined) return;
    await keepLoadTimes(this.#options, this.#device, this.#clock.times(performance.now() - this.#began));
  }

  readonly onRestart = (event: RestartEvent): void => {
    this.#emit("restart", event);
    this.#options.onRestart?.(event);
  };

  #emit<Name extends "restart" | "adapter">(event: Name, value: ModelEvents[Name]): void {
    publish(event, this.#name, value);
    this.events.emit(event, value);
  }

  #read({ model: _, phase, ...line }: ProgressLine): void {
    if (phase === "adapter") {
      this.#emit("adapter", line as AdapterEvent);
      return;
    }
    const { name: adapter, done, total, warm } = line;
    if (warm) this.#clock?.setWarm();
    this.#progress({
      phase,
      ...(adapter === undefined ? {} : { adapter }),
      ...(done === undefined ? {} : { done }),
      ...(total === undefined ? {} : { total }),
    });
  }

  #progress(progress: Omit<LoadProgress, "elapsed" | "fraction" | "remaining">): void {
    const { onProgress } = this.#options;
    if (onProgress === undefined || this.#clock === undefined) return;
    const elapsed = performance.now() - this.#began;
    const far = this.#clock.step(progress.phase, elapsed, progress.done, progress.total);
    callback("onProgress", onProgress, () => onProgress({ ...progress, elapsed, ...far }));
  }
}
