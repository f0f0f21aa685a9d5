/** What a word of the command line is, so that a shell can offer files for it. */
export type Taken = "file" | "folder";

/** An option of a command, in the form that node:util's parseArgs takes, with what --help and a shell say about it. */
export interface OptionSpec {
  readonly type: "string" | "boolean";
  readonly short?: string;
  readonly multiple?: boolean;
  readonly default?: string | boolean;
  /** The name of its value in --help: PATH, N. */
  readonly value?: string;
  /** The only values there are. */
  readonly choices?: readonly string[];
  readonly takes?: Taken;
  readonly help: string;
}

/** A word of a command besides its options. */
export interface ArgumentSpec {
  readonly name: string;
  readonly optional?: boolean;
  /** It may be given several times; the last one alone. */
  readonly repeated?: boolean;
  readonly choices?: readonly string[];
  readonly takes?: Taken;
  readonly help: string;
}

/** A command as it is parsed, explained by --help, and completed by a shell. */
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
