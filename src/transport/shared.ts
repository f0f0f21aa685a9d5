import type { Addon } from "../native/binding";
import { fromNative } from "./failure";

/** A resource of that name is set up already, with another key. Internal: a load reports it as ERR_MODEL_NAME_IN_USE. */
export class InUseError extends Error {
  override readonly name = "InUseError";
}

/**
 * Resources that all environments (main thread, workers) and all users in them share, with a count for the whole process: the
 * first user sets a resource up, the last one takes it down, and others wait meanwhile. See native/process/shared_resources.h.
 *
 * Names start with `model/` or `repository/`, which says how to clean up after a worker that was terminated.
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
        throw new InUseError(`${name} is in use with other settings`, { cause: error });
      }
      throw fromNative(error);
    }
  }

  /** Locks the resource to set it up again; {@link Shared.settle} unlocks it. False if this environment does not use it. */
  retake(name: string): Promise<boolean> {
    return this.#addon.retakeShared(name);
  }

  /** Unlocks the resource: it is set up, with this description, or (without one) it is not. */
  settle(name: string, description?: string): void {
    this.#addon.settleShared(name, description);
  }

  /**
   * Leaves the resource. Resolves with true for the last user, who takes it down and then calls {@link Shared.settle} without a
   * description.
   */
  release(name: string): Promise<boolean> {
    return this.#addon.releaseShared(name);
  }
}
