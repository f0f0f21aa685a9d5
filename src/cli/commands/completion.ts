import { parse } from "../arguments";
import { bash, fish, zsh } from "../completion";
import type { Run } from "../context";
import { commands } from "../table";
import { completion } from "../table/models";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(completion, args);
  const scripts = { bash, zsh, fish } as const;
  const script = scripts[positionals[0] as keyof typeof scripts];
  context.stdout.write(values.json ? `${JSON.stringify({ commands })}\n` : script(commands));
  return 0;
};
