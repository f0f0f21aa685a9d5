import { type Check, doctor } from "../../runtime";
import { parse } from "../arguments";
import type { Command } from "../context";
import { device } from "../shared-options";
import { type Style, styler } from "../terminal";

const help = `Usage: tritonode doctor [options]

Says line by line whether this machine can serve a model, and how to fix what is wrong. Changes nothing.
Exit code 1 when something would keep a model from loading or serve it wrongly.

Options:
  --device cpu|cuda     the runtime to look at (default: the one that would be used)
  --dir FOLDER          where it lies (default: $TRITONODE_RUNTIME_DIR, else the user's data folder)
  --triton FOLDER       an installed Triton to use with it, e.g. /opt/tritonserver
  --json                one JSON object a line: name, status, detail, fix
  -h, --help            show this text
`;

const MARKS: Readonly<Record<Check["status"], [Style, string]>> = {
  ok: ["green", "ok  "],
  warn: ["yellow", "warn"],
  fail: ["red", "FAIL"],
};

export const doctorCommand: Command = {
  name: "doctor",
  summary: "say what fits, what does not, and how to fix it",
  help,
  async run(args, context) {
    const { values } = parse("doctor", args, {
      device: { type: "string" },
      dir: { type: "string" },
      triton: { type: "string" },
      json: { type: "boolean", default: false },
    });
    const style = styler(context.stdout, context.environment);
    let failed = 0;
    const checks = doctor({
      device: values.device === undefined ? undefined : device(values.device),
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
  },
};

/** Further lines of a detail stand below its first one. */
function indented(text: string): string {
  return text.replaceAll("\n", `\n${" ".repeat(24)}`);
}
