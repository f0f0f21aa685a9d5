import { createInterface } from "node:readline/promises";
import { InvalidArgumentError } from "../../errors";
import { type Device, diskUsage, installedRuntimes, remove, requireRemovable } from "../../runtime";
import { defaultDirectory, namedDirectory } from "../../runtime/find/paths";
import { formatBytes } from "../../runtime/install/progress";
import { forgetRemoved } from "../../runtime/install/remove";
import { parse } from "../arguments";
import type { Context, Run } from "../context";
import { remove as spec } from "../table/runtime";
import { styler } from "../terminal";

export const run: Run = async (args, context) => {
  const { values } = parse(spec, args);
  await forgetRemoved(context.environment);
  const directories = chosen(values, context);
  if (directories.length === 0) {
    if (!values.json) context.stdout.write("there is no runtime to remove\n");
    return 0;
  }
  const tell = (result: object) => context.stdout.write(`${JSON.stringify(result)}\n`);
  const style = styler(context.stdout, context.environment);
  for (const directory of directories) {
    // Before the question, whose answer would not matter.
    requireRemovable(directory);
    const size = await diskUsage(directory).catch(() => undefined);
    const what = size === undefined ? directory : `${directory} (${formatBytes(size)})`;
    if (!values.yes && !(await agreed(what, context))) {
      if (values.json) tell({ directory, bytes: size, removed: false });
      else context.stdout.write(`${style("yellow", "kept")}: ${directory}\n`);
      continue;
    }
    const { kept } = await remove(directory, context.environment);
    if (values.json) {
      tell({ directory, bytes: size, removed: true, kept });
      continue;
    }
    context.stdout.write(`${style("green", "removed")}: ${what}\n`);
    if (kept.length > 0) context.stdout.write(`not made by setup, and still there: ${kept.join(", ")}\n`);
  }
  return 0;
};

function chosen(
  values: { dir?: string | undefined; device?: Device | undefined; all: boolean },
  context: Context,
): string[] {
  const given = [values.dir !== undefined, values.device !== undefined, values.all].filter(Boolean).length;
  if (given !== 1) {
    throw new InvalidArgumentError(
      given === 0 ? "remove needs --dir, --device or --all" : "--dir, --device and --all cannot be used together",
      {
        hint: "give one of --dir FOLDER, --device cpu|cuda and --all; `npx tritonode doctor` lists the runtimes",
      },
    );
  }
  if (values.all) return installedRuntimes(context.environment).map(({ directory }) => directory);
  if (values.dir !== undefined) return [namedDirectory(values.dir, context.environment) ?? values.dir];
  return [defaultDirectory(values.device ?? "cpu", context.environment)];
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
