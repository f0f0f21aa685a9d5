import { TritonodeError } from "../errors";
import { describe } from "./describe";

/** A function that the caller passed in threw; `cause` is what it threw. */
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
 * Calls a function of the caller's. What it throws must not stop the library's own work, and must not get lost: the
 * first error of each function becomes an uncaught exception that names the callback, as an error thrown by a listener
 * of Node's own would be.
 *
 * @param owner - what the function is known by: the function itself, or the object that it is a method of
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
