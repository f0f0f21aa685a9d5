import { InvalidArgumentError } from "../errors";
import { describe } from "./describe";

/** Longest delay of Node's timers, about 24.8 days; a longer one would fire after 1 ms. */
export const maxDelay = 2 ** 31 - 1;

/**
 * Checks an option that limits how long something may take.
 *
 * @returns the milliseconds, or undefined for no limit (left out, or `Infinity`)
 * @throws {@link InvalidArgumentError} naming the option
 */
export function checkLimit(name: string, value: unknown): number | undefined {
  if (value === undefined || value === Number.POSITIVE_INFINITY) return undefined;
  if (typeof value !== "number" || !(value > 0 && value <= maxDelay)) {
    throw new InvalidArgumentError(
      `${name} must be a number of milliseconds above 0 and up to ${maxDelay}, got ${describe(value)}`,
      { hint: `leave ${name} out, or pass Infinity, for no limit` },
    );
  }
  return value;
}
