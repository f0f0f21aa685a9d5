import { setTimeout as sleep } from "node:timers/promises";
import { callback } from "../common/callbacks";
import { describe } from "../common/describe";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError } from "../errors";

/** What to do when the engine has died. */
export interface RestartOptions {
  /**
   * `never` (default): the model is not restarted. `on-failure`: it is loaded again, including adapters loaded at run time.
   */
  policy: "never" | "on-failure";
  /** Maximum number of consecutive restarts. Default 5. */
  maxAttempts?: number | undefined;
  /**
   * Milliseconds before the first restart; doubled for each consecutive one. Default: the first restart begins at once, the second
   * one after 500.
   */
  delay?: number | undefined;
  /** Maximum delay before a restart, milliseconds. Default 30,000. */
  maxDelay?: number | undefined;
  /** Milliseconds that the model must run before the count of restarts begins again. Default 60,000. */
  resetAfter?: number | undefined;
}

/** A step of a restart. */
export interface RestartEvent {
  /**
   * `died`: the engine has ended, and the next attempt begins after `delay` milliseconds. `loading`: the attempt begins.
   * `ready`: the model serves again. `failed`: the attempt did not succeed. `stopped`: no
   * further attempt is made.
   */
  readonly phase: "died" | "loading" | "ready" | "failed" | "stopped";
  /** The number of consecutive restarts; 1 for the first. */
  readonly attempt: number;
  /** Milliseconds before the next attempt (`died`, `failed`). */
  readonly delay?: number;
  /** What ended the engine or the attempt. */
  readonly error?: Error;
}

/** Milliseconds before the second of consecutive restarts, without `delay`. */
const defaultDelay = 500;

type RestartSettings = { readonly [K in keyof Omit<RestartOptions, "delay">]-?: NonNullable<RestartOptions[K]> } & {
  readonly delay: number | undefined;
};

/** @throws {@link InvalidArgumentError} naming what is wrong. */
export function toRestartOptions(value: unknown): RestartSettings {
  const given = (
    typeof value === "string" || value === undefined ? { policy: value ?? "never" } : value
  ) as RestartOptions;
  if (typeof given !== "object" || given === null || !["never", "on-failure"].includes(given.policy)) {
    throw new InvalidArgumentError(`restart must be "never", "on-failure" or an object, got ${describe(value)}`, {
      hint: 'for example { policy: "on-failure", maxAttempts: 5 }',
    });
  }
  const defaults = { maxAttempts: 5, delay: 0, maxDelay: 30_000, resetAfter: 60_000 };
  checkNames("restart", given, ["policy", ...Object.keys(defaults)]);
  const number = (name: keyof typeof defaults): number => {
    const setting = given[name] ?? defaults[name];
    if (!(typeof setting === "number" && setting >= 0 && setting <= 2 ** 31 - 1)) {
      throw new InvalidArgumentError(
        `restart.${name} must be a number from 0 to ${2 ** 31 - 1}, got ${describe(setting)}`,
      );
    }
    return setting;
  };
  return {
    policy: given.policy,
    maxAttempts: number("maxAttempts"),
    delay: given.delay === undefined ? undefined : number("delay"),
    maxDelay: number("maxDelay"),
    resetAfter: number("resetAfter"),
  };
}

/** Milliseconds before an attempt. Without `delay` a crash costs no pause, and crashes in a row do. */
function pauseBefore(attempt: number, delay: number | undefined): number {
  if (delay !== undefined) return delay * 2 ** (attempt - 1);
  return attempt === 1 ? 0 : defaultDelay * 2 ** (attempt - 2);
}

/**
 * Loads a model again after its engine died, with increasing delays, until it is ready or too many consecutive attempts have
 * failed.
 */
export class Restarter {
  readonly #options: RestartSettings;
  readonly #reload: (signal: AbortSignal) => Promise<void>;
  readonly #report: (event: RestartEvent) => void;
  readonly #stopping = new AbortController();
  #attempts = 0;
  #readySince = performance.now();
  /** The engine died again before the current restart had ended. */
  #diedAgain: Error | undefined;
  #running: Promise<void> | undefined;

  /**
   * @param reload - loads the model; stops when its signal is aborted
   * @param report - gets each step
   */
  constructor(
    options: RestartSettings,
    reload: (signal: AbortSignal) => Promise<void>,
    report: (event: RestartEvent) => void,
  ) {
    this.#options = options;
    this.#reload = reload;
    this.#report = (event) => void callback("onRestart", report, () => report(event));
  }

  /** Call this when the engine has died. */
  died(error: Error): void {
    if (this.#options.policy === "never" || this.#stopping.signal.aborted) return;
    if (this.#running !== undefined) {
      this.#diedAgain = error;
      return;
    }
    this.#running = this.#run(error).finally(() => {
      this.#running = undefined;
      const again = this.#diedAgain;
      this.#diedAgain = undefined;
      if (again !== undefined) this.died(again);
    });
  }

  /** Cancels the current restart, if any, and waits until it has ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#running;
  }

  async #run(died: Error): Promise<void> {
    const { maxAttempts, delay, maxDelay, resetAfter } = this.#options;
    const { signal } = this.#stopping;
    if (performance.now() - this.#readySince > resetAfter) this.#attempts = 0;
    for (let error = died, phase: "died" | "failed" = "died"; !signal.aborted; phase = "failed") {
      if (this.#attempts >= maxAttempts) {
        this.#report({ phase: "stopped", attempt: this.#attempts, error });
        return;
      }
      const attempt = ++this.#attempts;
      const pause = Math.min(pauseBefore(attempt, delay), maxDelay);
      this.#report({ phase, attempt, delay: pause, error });
      try {
        // The wait for the next attempt does not keep the process alive.
        await sleep(pause, undefined, { signal, ref: false });
        this.#report({ phase: "loading", attempt });
        await this.#reload(signal);
        this.#diedAgain = undefined;
        this.#readySince = performance.now();
        this.#report({ phase: "ready", attempt });
        return;
      } catch (failure) {
        error = failure instanceof Error ? failure : new Error(String(failure));
      }
    }
  }
}
