import { createInterface } from "node:readline/promises";
import { InvalidArgumentError } from "../../errors";
import { diskUsage, installedRuntimes, remove } from "../../runtime";
import { defaultDirectory, namedDirectory } from "../../runtime/find/paths";
import { formatBytes } from "../../runtime/install/progress";
import { parse } from "../arguments";
import type { Command, Context } from "../context";
import { device } from "../shared-options";
import { styler } from "../terminal";

const help = `Usage: tritonode remove --dir FOLDER | --device cpu|cuda | --all [options]

Deletes a runtime that \`tritonode setup\` made. Refuses a folder that is none, one that a setup is working on, and one
that a live process uses. Files in it that setup did not make stay.

Options:
  --dir FOLDER          the runtime in this folder
  --device cpu|cuda     this version's runtime for this device, in its usual place
  --all                 every runtime of every version that setup made for this user
  -y, --yes             do not ask first (without a terminal it is needed)
  -h, --help            show this text
`;

export const removeCommand: Command = {
  name: "remove",
  summary: "delete a runtime that setup made",
  help,
  async run(args, context) {
    const { values } = parse("remove", args, {
      dir: { type: "string" },
      device: { type: "string" },
      all: { type: "boolean", default: false },
      yes: { type: "boolean", short: "y", default: false },
    });
    const directories = chosen(values, context);
    if (directories.length === 0) {
      context.stdout.write("there is no runtime to remove\n");
      return 0;
    }
    const style = styler(context.stdout, context.environment);
    for (const directory of directories) {
      const size = await diskUsage(directory).catch(() => undefined);
      const what = size === undefined ? directory : `${directory} (${formatBytes(size)})`;
      if (!values.yes && !(await agreed(what, context))) {
        context.stdout.write(`${style("yellow", "kept")}: ${directory}\n`);
        continue;
      }
      const { kept } = await remove(directory, context.environment);
      context.stdout.write(`${style("green", "removed")}: ${what}\n`);
      if (kept.length > 0) context.stdout.write(`not made by setup, and still there: ${kept.join(", ")}\n`);
    }
    return 0;
  },
};

function chosen(values: { dir?: string; device?: string; all: boolean }, context: Context): string[] {
  const given = [values.dir !== undefined, values.device !== undefined, values.all].filter(Boolean).length;
  if (given !== 1) {
    throw new InvalidArgumentError(given === 0 ? "which runtime?" : "--dir, --device and --all exclude each other", {
      hint: "give one of --dir FOLDER, --device cpu|cuda and --all; `npx tritonode doctor` names what is there",
    });
  }
  if (values.all) return installedRuntimes(context.environment).map(({ directory }) => directory);
  if (values.dir !== undefined) return [namedDirectory(values.dir, context.environment) ?? values.dir];
  return [defaultDirectory(device(values.device ?? ""), context.environment)];
}

async function agreed(what: string, context: Context): Promise<boolean> {
  if (context.stdin.isTTY !== true) {
    throw new InvalidArgumentError(`${what} was not removed: there is no terminal to ask on`, { hint: "add --yes" });
  }
  const terminal = createInterface({ input: context.stdin, output: context.stderr as NodeJS.WritableStream });
  try {
    return /^y(es)?$/i.test((await terminal.question(`remove ${what}? [y/N] `, { signal: context.signal })).trim());
  } finally {
    terminal.close();
  }
}
