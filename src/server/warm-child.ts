import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Addon } from "../native/binding";
import { fromNative } from "../transport/failure";

/**
 * How many seconds the server's children must have been idle before a new warm child is started, and the longest wait for that.
 */
const idleSeconds = 1;
const patienceSeconds = 60;
/** Share of one processor that counts as idle. */
const idleShare = 0.1;
/** After this many warm children in a row have exited by themselves, no more are started. */
const maxFailures = 3;

/** The part of the server that a keeper uses. */
export interface WarmChildHost {
  readonly addon: Pick<
    Addon,
    "holdWarmChild" | "startWarmChild" | "warmChildEnded" | "releaseWarmChild" | "hold" | "unhold"
  >;
  /** Pids of the children that serve models. */
  children(): readonly number[];
  warn(message: string): void;
}

/**
 * Keeps one warm child for an environment (native/process/warm_children.h): when a load or a restart has used it, or it
 * has exited, another one is started as soon as the server's children are idle.
 */
export class WarmChildKeeper {
  readonly #host: WarmChildHost;
  readonly #key: string;
  readonly #released = new AbortController();
  #pid: number | undefined;
  #running: Promise<void> | undefined;

  /** @param key - the file with its environment (Workspace.prepareWarmChild) */
  constructor(host: WarmChildHost, key: string) {
    this.#host = host;
    this.#key = key;
    host.addon.holdWarmChild(key);
  }

  /** Pid of the waiting child; undefined while there is none. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /** Starts the first child and waits until it has imported everything. Call it once. @throws the addon's error */
  async start(): Promise<void> {
    const { addon } = this.#host;
    addon.hold();
    try {
      this.#pid = await addon.startWarmChild(this.#key);
    } catch (error) {
      throw fromNative(error);
    } finally {
      addon.unhold();
    }
    this.keep(0);
  }

  /** Starts children in the background. @param firstPause - seconds before the first one, if there is none yet */
  keep(firstPause = 1): void {
    this.#running ??= this.#keep(firstPause).catch((error: unknown) => {
      if (!this.#released.signal.aborted) this.#host.warn(`tritonode: no warm child any more: ${String(error)}`);
    });
  }

  /** Ends the waiting child, and starts no more. */
  release(): void {
    if (this.#released.signal.aborted) return;
    this.#released.abort();
    this.#pid = undefined;
    this.#host.addon.releaseWarmChild(this.#key);
  }

  async #keep(firstPause: number): Promise<void> {
    const { addon } = this.#host;
    const { signal } = this.#released;
    if (firstPause > 0) await sleep(firstPause * 1000, undefined, { signal, ref: false });
    for (let failures = 0; !signal.aborted; ) {
      const started = performance.now();
      await addon.warmChildEnded(this.#key);
      this.#pid = undefined;
      if (signal.aborted) return;
      await this.#untilIdle();
      try {
        this.#pid = await addon.startWarmChild(this.#key);
        // A child that dies as soon as it is ready counts as a failure too.
        if (performance.now() - started > patienceSeconds * 1000) failures = 0;
      } catch (error) {
        if (signal.aborted) return;
        if (++failures >= maxFailures) throw fromNative(error);
      }
    }
  }

  async #untilIdle(): Promise<void> {
    const { signal } = this.#released;
    for (let seconds = 0; seconds < patienceSeconds; seconds += idleSeconds) {
      const before = processorSeconds(this.#host.children());
      await sleep(idleSeconds * 1000, undefined, { signal, ref: false });
      const after = processorSeconds(this.#host.children());
      if (after.key === before.key && after.seconds - before.seconds < idleShare * idleSeconds) return;
    }
  }
}

/** The processor time that processes have used so far, and a text that shows whether they are still the same processes. */
function processorSeconds(pids: readonly number[]): { key: string; seconds: number } {
  let ticks = 0;
  for (const pid of pids) {
    try {
      // proc_pid_stat(5): utime and stime are fields 14 and 15, in hundredths of a second; the name in parentheses may contain
      // anything.
      const fields = readFileSync(`/proc/${pid}/stat`, "latin1").replace(/^.*\)/s, "").split(" ");
      ticks += Number(fields[12]) + Number(fields[13]);
    } catch {
      // Gone.
    }
  }
  return { key: pids.join(" "), seconds: ticks / 100 };
}
