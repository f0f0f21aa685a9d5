import { createInterface } from "node:readline/promises";
import { type Check, type DoctorOptions, doctor, type Repair, repairsFor } from "../../runtime";
import { parse } from "../arguments";
import type { Context, Run } from "../context";
import { doctor as spec } from "../table/runtime";
import { type Style, styler } from "../terminal";

const MARKS: Readonly<Record<Check["status"], [Style, string]>> = {
  ok: ["green", "ok  "],
  warn: ["yellow", "warn"],
  fail: ["red", "FAIL"],
};

export const run: Run = async (args, context) => {
  const { values } = parse(spec, args);
  const { device, triton } = values;
  const options = { device, directory: values.dir, triton, signal: context.signal };
  const checks = await examine(context, options, values.json);
  if (!values.fix) return end(context, checks, values.json);
  const repairs = await repairsFor(checks, { ...options, onStep: stepsOf(context) });
  if (repairs.length === 0) {
    if (!values.json) context.stdout.write("\nnothing that could be fixed from here\n");
    return end(context, checks, values.json);
  }
  for (const repair of repairs) {
    if (!(await agreed(context, repair, values.yes))) continue;
    await repair.run();
    context.stderr.write(`${styler(context.stderr, context.environment)("green", "done")}\n`);
  }
  context.stderr.write("\nlooking again\n");
  return end(context, await examine(context, options, values.json, { onlyWrong: true }), values.json);
};

async function examine(
  context: Context,
  options: DoctorOptions,
  json: boolean,
  { onlyWrong = false } = {},
): Promise<Check[]> {
  const style = styler(context.stdout, context.environment);
  const checks: Check[] = [];
  for await (const check of doctor(options)) {
    checks.push(check);
    if (json) context.stdout.write(`${JSON.stringify(check)}\n`);
    else if (!onlyWrong || check.status !== "ok") {
      const [color, mark] = MARKS[check.status];
      context.stdout.write(`${style(color, mark)}  ${check.name.padEnd(17)} ${indented(check.detail)}\n`);
      if (check.fix !== undefined) context.stdout.write(`${" ".repeat(24)}${style("cyan", "fix")}: ${check.fix}\n`);
    }
  }
  return checks;
}

function end(context: Context, checks: readonly Check[], json: boolean): number {
  const failed = checks.filter(({ status }) => status === "fail").length;
  if (!json) context.stdout.write(failed === 0 ? "\nready to serve\n" : `\n${failed} to fix\n`);
  return failed === 0 ? 0 : 1;
}

/** Says what will be done, and asks if there is a terminal. Nothing is done without an answer or --yes. */
async function agreed(context: Context, { what }: Repair, yes: boolean): Promise<boolean> {
  const style = styler(context.stderr, context.environment);
  context.stderr.write(`\n${style("cyan", "fix")}: ${what}\n`);
  if (yes) return true;
  if (!context.stdin.isTTY) {
    context.stderr.write("not done: nobody can be asked here; add --yes\n");
    return false;
  }
  const line = createInterface({ input: context.stdin, output: process.stderr });
  try {
    const answer = await line.question("do it? [y/N] ", { signal: context.signal });
    return /^y(es)?$/i.test(answer.trim());
  } finally {
    line.close();
  }
}

/** One line for each step; repeated steps share a line. */
function stepsOf(context: Context): (step: string) => void {
  let last = "";
  return (step) => {
    if (step !== last) context.stderr.write(`  ${step}\n`);
    last = step;
  };
}

/** Further lines of a detail stand below its first one. */
function indented(text: string): string {
  return text.replaceAll("\n", `\n${" ".repeat(24)}`);
}
