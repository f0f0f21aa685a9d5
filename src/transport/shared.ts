import { TritonodeError } from "../errors";
import type { Addon } from "../native/binding";
import { fromNative } from "./failure";

/** A resource of that name is set up already, with another key. `description` is what its owner said of it. */
export class InUseError extends TritonodeError {
  readonly description: string;

  constructor(name: string, description: string) {
    super("ERR_IN_USE", `${name} is in use with other settings`);
    this.description = description;
  }
}

/**
 * What all environments (main thread, workers) and all users in one of them share, counted for the whole process: the
 * first sets it up, the last takes it down, and nobody else touches it meanwhile. See native/process/shared_resources.h.
 *
 * Names start with `model/` or `repository/`: what a terminated worker leaves is unloaded or unregistered by that.
 */
export class Shared {
  readonly #addon: Addon;

  constructor(addon: Addon) {
    this.#addon = addon;
  }

  /**
   * Joins the users of `name`; waits while another one sets it up or takes it down.
   *
   * @returns its description, or undefined: the caller sets it up and then calls {@link Shared.settle}
   * @throws {@link InUseError} if it was set up with another `key`
   */
  async acquire(name: string, key: string): Promise<string | undefined> {
    try {
      return await this.#addon.acquireShared(name, key);
    } catch (error) {
      if (error instanceof Error && (error as { code?: unknown }).code === "IN_USE") {
        throw new InUseError(name, error.message);
      }
      throw fromNative(error);
    }
  }

  /** Takes the turn to set it up again; {@link Shared.settle} ends it. False if this environment does not use it. */
  retake(name: string): Promise<boolean> {
    return this.#addon.retakeShared(name);
  }

  /** Ends the turn: it is there, with this description, or it is not. */
  settle(name: string, description?: string): void {
    this.#addon.settleShared(name, description);
  }

  /** Leaves it. True for the last user, who takes it down and then calls {@link Shared.settle} without a description. */
  release(name: string): Promise<boolean> {
    return this.#addon.releaseShared(name);
  }
}
