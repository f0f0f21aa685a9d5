import type { ArgumentSpec, CommandSpec, OptionSpec } from "./spec";

/** Columns of a help text. */
const WIDTH = 100;
/** Column at which an explanation begins; after a longer option it begins on the next line. */
const COLUMN = 28;

/** The whole text of `tritonode NAME --help`. */
export function helpText(spec: CommandSpec): string {
  const blocks = [`Usage: ${usage(spec)}`, ...spec.description.map((text) => wrap(text, WIDTH).join("\n"))];
  if (spec.arguments.length > 0) {
    blocks.push(["Arguments:", ...spec.arguments.map(({ name, help }) => row(`  ${name}`, help))].join("\n"));
  }
  const options = Object.entries(spec.options).map(([name, option]) => row(`  ${heading(name, option)}`, option.help));
  blocks.push(["Options:", ...options, row("  -h, --help", "show this text")].join("\n"));
  for (const text of spec.notes ?? []) blocks.push(wrap(text, WIDTH).join("\n"));
  if (spec.examples !== undefined) blocks.push(["Examples:", ...spec.examples.map((line) => `  ${line}`)].join("\n"));
  return `${blocks.join("\n\n")}\n`;
}

function usage({ name, arguments: positionals }: CommandSpec): string {
  return ["tritonode", name, ...positionals.map(positional), "[options]"].join(" ");
}

function positional({ name, optional, repeated }: ArgumentSpec): string {
  const text = repeated ? `${name}...` : name;
  return optional ? `[${text}]` : text;
}

/** `-s, --long VALUE` */
function heading(name: string, { short, value, choices }: OptionSpec): string {
  const what = choices === undefined ? value : choices.join("|");
  return `${short === undefined ? "" : `-${short}, `}--${name}${what === undefined ? "" : ` ${what}`}`;
}

function row(head: string, text: string): string {
  const [first = "", ...rest] = wrap(text, WIDTH - COLUMN);
  const indent = " ".repeat(COLUMN);
  const start = head.length < COLUMN - 1 ? head.padEnd(COLUMN) : `${head}\n${indent}`;
  return [start + first, ...rest.map((line) => indent + line)].join("\n");
}

/** Breaks a text at spaces; a word longer than `width` stays whole. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const part of text.split(" ")) {
    if (line !== "" && line.length + 1 + part.length > width) {
      lines.push(line);
      line = part;
    } else {
      line = line === "" ? part : `${line} ${part}`;
    }
  }
  return [...lines, line];
}
