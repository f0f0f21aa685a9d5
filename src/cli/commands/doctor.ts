import { type Check, doctor } from "../../runtime";
import { parse } from "../arguments";
import type { Run } from "../context";
import { doctor as spec } from "../table/runtime";
import { type Style, styler } from "../terminal";

const MARKS: Readonly<Record<Check["status"], [Style, string]>> = {
  ok: ["green", "ok  "],
  warn: ["yellow", "warn"],
  fail: ["red", "FAIL"],
};

export const run: Run = async (args, context) => {
  const { values } = parse(spec, args);
  const style = styler(context.stdout, context.environment);
  let failed = 0;
  const checks = doctor({
    device: values.device,
    directory: values.dir,
    triton: values.triton,
    signal: context.signal,
  });
  for await (const check of checks) {
    if (check.status === "fail") failed++;
    if (values.json) {
      context.stdout.write(`${JSON.stringify(check)}\n`);
      continue;
    }
    const [color, mark] = MARKS[check.status];
    context.stdout.write(`${style(color, mark)}  ${check.name.padEnd(17)} ${indented(check.detail)}\n`);
    if (check.fix !== undefined) context.stdout.write(`${" ".repeat(24)}${style("cyan", "fix")}: ${check.fix}\n`);
  }
  if (!values.json) {
    context.stdout.write(failed === 0 ? "\nready to serve\n" : `\n${failed} to fix\n`);
  }
  return failed === 0 ? 0 : 1;
};

/** Further lines of a detail stand below its first one. */
function indented(text: string): string {
  return text.replaceAll("\n", `\n${" ".repeat(24)}`);
}
