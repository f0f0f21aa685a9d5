import { type ParseArgsConfig, parseArgs } from "node:util";
import { nearest } from "../common/nearest";
import { InvalidArgumentError } from "../errors";

type Options = NonNullable<ParseArgsConfig["options"]>;

/**
 * node:util's parseArgs with better errors: the offending word, and for an unknown option the nearest known one.
 *
 * @param positionals how many words besides the options are allowed.
 * @throws {@link InvalidArgumentError}
 */
export function parse<T extends Options>(
  command: string,
  args: string[],
  options: T,
  positionals = 0,
): ReturnType<typeof parseArgs<{ args: string[]; options: T; allowPositionals: true; strict: true }>> {
  const help = `run: tritonode ${command} --help`;
  try {
    const parsed = parseArgs({ args, options, allowPositionals: true, strict: true });
    const extra = parsed.positionals[positionals];
    if (extra !== undefined)
      throw new InvalidArgumentError(`unexpected argument ${JSON.stringify(extra)}`, { hint: help });
    return parsed;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ERR_PARSE_ARGS_UNKNOWN_OPTION") {
      const word = /'(--?[^'\s]+)/.exec(message)?.[1] ?? "";
      const near = nearest(word.replace(/^-+/, ""), Object.keys(options));
      const hint = near === undefined ? help : `did you mean --${near}? Otherwise ${help}`;
      throw new InvalidArgumentError(`unknown option ${word}`, { hint, cause: error });
    }
    if (code?.startsWith("ERR_PARSE_ARGS")) {
      throw new InvalidArgumentError(message.split(".")[0] ?? message, { hint: help, cause: error });
    }
    throw error;
  }
}

/** A whole number, at least `minimum`. @throws {@link InvalidArgumentError} naming the option. */
export function integer(option: string, text: string, minimum: number): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isSafeInteger(value) && value >= minimum) return value;
  throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not a whole number of at least ${minimum}`);
}

/** A positive number. @throws {@link InvalidArgumentError} naming the option. */
export function positive(option: string, text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value) && value > 0) return value;
  throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not a number above 0`);
}

/** A JSON object. @throws {@link InvalidArgumentError} naming the option. */
export function jsonObject(option: string, text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not JSON`, { cause });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not a JSON object`);
}

/** Comma-separated names, of one or of several uses of an option. */
export function names(values: readonly string[] | undefined): string[] {
  return (values ?? []).flatMap((value) => value.split(",")).filter((name) => name !== "");
}
