import { type ParseArgsConfig, parseArgs } from "node:util";
import { nearest } from "../common/nearest";
import { shellWord } from "../common/shell";
import { InvalidArgumentError } from "../errors";
import type { CommandSpec } from "./spec";

type ValuesOf<Options extends NonNullable<ParseArgsConfig["options"]>> = ReturnType<
  typeof parseArgs<{ args: string[]; options: Options; allowPositionals: true; strict: true }>
>["values"];

/** The values with parseArgs' types; the value of an option with `choices` has the type of its choices. */
type Values<Options extends NonNullable<ParseArgsConfig["options"]>> = {
  [Name in keyof ValuesOf<Options>]: Name extends keyof Options
    ? Options[Name] extends { readonly choices: readonly (infer Choice)[] }
      ? Choice | Extract<ValuesOf<Options>[Name], undefined>
      : ValuesOf<Options>[Name]
    : never;
};

export interface Parsed<Spec extends CommandSpec> {
  values: Values<Spec["options"]>;
  positionals: string[];
}

/**
 * Calls node:util's parseArgs, with better errors: they name the wrong argument, and the nearest option to an unknown one.
 *
 * @throws {@link InvalidArgumentError}, also for missing or unexpected arguments
 */
export function parse<Spec extends CommandSpec>(spec: Spec, args: string[]): Parsed<Spec> {
  const help = `run: tritonode ${spec.name} --help`;
  try {
    const parsed = parseArgs({ args, options: { ...spec.options }, allowPositionals: true, strict: true });
    checkPositionals(spec, parsed.positionals);
    for (const [name, { choices }] of Object.entries(spec.options)) {
      const value = parsed.values[name];
      if (choices === undefined || typeof value !== "string" || choices.includes(value)) continue;
      throw new InvalidArgumentError(`--${name} ${JSON.stringify(value)} is not known`, {
        hint: `use ${either(choices)}`,
      });
    }
    return parsed as unknown as Parsed<Spec>;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "ERR_PARSE_ARGS_UNKNOWN_OPTION") {
      const option = /'(--?[^'\s]+)/.exec(message)?.[1] ?? "";
      const near = nearest(option.replace(/^-+/, ""), Object.keys(spec.options));
      const hint = near === undefined ? help : `did you mean --${near}? Otherwise ${help}`;
      throw new InvalidArgumentError(`unknown option ${option}`, { hint, cause: error });
    }
    if (code === "ERR_PARSE_ARGS_INVALID_OPTION_VALUE") {
      const dashed = /'(--?[\w-]+)[^']*' argument is ambiguous/.exec(message)?.[1];
      const value = args.find((_, index) => dashed !== undefined && args[index - 1] === dashed);
      if (dashed?.startsWith("--") && value !== undefined) {
        throw new InvalidArgumentError(`${dashed}: the value ${JSON.stringify(value)} begins with -`, {
          hint: `if it is the value, write: ${shellWord(`${dashed}=${value}`)}; otherwise ${help}`,
          cause: error,
        });
      }
    }
    if (code?.startsWith("ERR_PARSE_ARGS")) {
      throw new InvalidArgumentError(message.split(".")[0] ?? message, { hint: help, cause: error });
    }
    throw error;
  }
}

function checkPositionals({ name, arguments: known, examples }: CommandSpec, positionals: readonly string[]): void {
  const help = `run: tritonode ${name} --help`;
  const last = known.at(-1);
  const extra = last?.repeated ? undefined : positionals[known.length];
  if (extra !== undefined)
    throw new InvalidArgumentError(`unexpected argument ${JSON.stringify(extra)}`, { hint: help });
  for (const [index, { name: what, choices }] of known.entries()) {
    const given = positionals[index];
    if (choices === undefined || given === undefined || choices.includes(given)) continue;
    const near = nearest(given, choices);
    throw new InvalidArgumentError(`${what} ${JSON.stringify(given)} is not known`, {
      hint: near === undefined ? `use ${either(choices)}` : `did you mean ${near}?`,
    });
  }
  const missing = known.slice(positionals.length).find(({ optional }) => !optional);
  if (missing !== undefined) {
    throw new InvalidArgumentError(`${name} needs ${missing.name}: ${missing.help}`, {
      hint: examples?.[0] === undefined ? help : `for example: ${examples[0]}`,
    });
  }
}

/** `a`, `a or b`, `a, b or c`. */
function either(choices: readonly string[]): string {
  return [choices.slice(0, -1).join(", "), ...choices.slice(-1)].filter((part) => part !== "").join(" or ");
}

/** A whole number, at least `minimum`. @throws {@link InvalidArgumentError} naming the option. */
export function integer(option: string, text: string, minimum: number): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isSafeInteger(value) && value >= minimum) return value;
  throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not a whole number of at least ${minimum}`, {
    hint: `for example: ${option} ${Math.max(minimum, 16)}`,
  });
}

/** A positive number. @throws {@link InvalidArgumentError} naming the option. */
export function positive(option: string, text: string): number {
  const value = number(option, text);
  if (value > 0) return value;
  throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not a number above 0`, {
    hint: `for example: ${option} 30`,
  });
}

/** A finite number. @throws {@link InvalidArgumentError} naming the option. */
export function number(option: string, text: string): number {
  const value = Number(text);
  if (text.trim() !== "" && Number.isFinite(value)) return value;
  throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not a number`, {
    hint: `for example: ${option} 0.5`,
  });
}

/** A JSON object. @throws {@link InvalidArgumentError} naming the option. */
export function jsonObject(option: string, text: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not JSON`, { hint: jsonHint(option), cause });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new InvalidArgumentError(`${option} ${JSON.stringify(text)} is not a JSON object`, { hint: jsonHint(option) });
}

function jsonHint(option: string): string {
  return `an object, in single quotes for the shell: ${option} '{"name": "value"}'`;
}

/** Comma-separated names, of one or of several uses of an option. */
export function names(values: readonly string[] | undefined): string[] {
  return (values ?? []).flatMap((value) => value.split(",")).filter((name) => name !== "");
}
