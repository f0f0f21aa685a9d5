/** Where the command line writes: stdout or stderr, or a stand-in for them. */
export interface Output {
  write(text: string): unknown;
  isTTY?: boolean | undefined;
  columns?: number | undefined;
}

export type Style = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";

const CODES: Readonly<Record<Style, [number, number]>> = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
};

/**
 * Whether to colour what goes to `output`: only on a terminal, never with NO_COLOR set to anything (no-color.org) or on a
 * terminal without capabilities; FORCE_COLOR turns colours on without a terminal (for a CI log that shows colours).
 */
export function hasColor(output: Output, environment: NodeJS.ProcessEnv = process.env): boolean {
  if (environment.NO_COLOR) return false;
  if (environment.FORCE_COLOR !== undefined) return environment.FORCE_COLOR !== "0";
  return output.isTTY === true && environment.TERM !== "dumb";
}

/** Returns a function that styles a text, or returns it unchanged if colours are off. */
export function styler(output: Output, environment: NodeJS.ProcessEnv = process.env) {
  const on = hasColor(output, environment);
  return (style: Style, text: string): string => {
    const [open, close] = CODES[style];
    return on ? `\u001b[${open}m${text}\u001b[${close}m` : text;
  };
}
