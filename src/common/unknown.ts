import { InvalidArgumentError } from "../errors";
import { nearest } from "./nearest";

/** ` (did you mean 'x'?)` for the nearest known name, or nothing. */
export function didYouMean(name: string, known: readonly string[]): string {
  const near = nearest(name, known);
  return near === undefined ? "" : ` (did you mean '${near}'?)`;
}

/**
 * Refuses an option that is not known: it would be ignored, and the mistake found late or never.
 *
 * @param what - whose options they are, for the message: `VllmModel.load`
 * @param hint - what to do with a name that is meant; default: the known names
 * @throws {@link InvalidArgumentError} naming the option and the nearest known one
 */
export function checkNames(what: string, given: object, known: readonly string[], hint?: string): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue;
    throw new InvalidArgumentError(`${what} knows no option '${name}'${didYouMean(name, known)}`, {
      hint: hint ?? `the options are ${known.join(", ")}`,
    });
  }
}
