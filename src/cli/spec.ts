/** Whether an argument is a file or a folder, so that a shell can complete it. */
export type PathKind = "file" | "folder";

/** An option of a command: the fields of node:util's parseArgs, and those for --help and shell completions. */
export interface OptionSpec {
  readonly type: "string" | "boolean";
  readonly short?: string;
  readonly multiple?: boolean;
  readonly default?: string | boolean;
  /** The name of its value in --help: PATH, N. */
  readonly value?: string;
  /** The allowed values. */
  readonly choices?: readonly string[];
  readonly takes?: PathKind;
  readonly help: string;
}

/** A positional argument of a command. */
export interface ArgumentSpec {
  readonly name: string;
  readonly optional?: boolean;
  /** It may be repeated. Only the last argument may. */
  readonly repeated?: boolean;
  readonly choices?: readonly string[];
  readonly takes?: PathKind;
  readonly help: string;
}

/** The description of a command, for parsing, --help and shell completions. */
export interface CommandSpec {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  readonly arguments: readonly ArgumentSpec[];
  /** Paragraphs: what the command does. */
  readonly description: readonly string[];
  readonly options: Readonly<Record<string, OptionSpec>>;
  readonly examples?: readonly string[];
  /** Paragraphs below the options. */
  readonly notes?: readonly string[];
}

/** Keeps the type of a command's own options, which `parse` gives their values by. */
export function command<const Spec extends CommandSpec>(spec: Spec): Spec {
  return spec;
}
