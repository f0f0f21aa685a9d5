import { TritonodeError } from "../errors";
import { describe } from "./describe";

/** A callback threw an error: `cause`. */
export class CallbackError extends TritonodeError {
  /** The option or method that the function was passed as. */
  readonly callback: string;

  constructor(callback: string, cause: unknown) {
    super(
      "ERR_CALLBACK",
      `the callback ${callback} threw: ${cause instanceof Error ? cause.message : describe(cause)}`,
      {
        cause,
        hint: "catch errors inside the callback; further ones of this callback are not reported",
      },
    );
    this.callback = callback;
  }
}

const reported = new WeakSet<object>();

/**
 * Calls a callback of the user's. An error that it throws must not stop the library, and must not get lost: the first
 * error of each callback becomes an uncaught exception that names the callback, like the error of an event listener.
 *
 * @param owner - identifies the callback: the function, or the object that it is a method of
 * @returns the error that it threw
 */
export function callback(name: string, owner: object, call: () => void): CallbackError | undefined {
  try {
    call();
    return undefined;
  } catch (thrown) {
    const error = new CallbackError(name, thrown);
    if (!reported.has(owner)) {
      reported.add(owner);
      queueMicrotask(() => {
        throw error;
      });
    }
    return error;
  }
}
