import { BuildError, compile } from "../../runtime/install/compile";
import { checkAddon } from "../../runtime/check/doctor";
import { parse } from "../arguments";
import type { Run } from "../context";
import { ProgressBar } from "../progress-bar";
import { build } from "../table/runtime";
import { styler } from "../terminal";

export const run: Run = async (args, context) => {
    const { values } = parse(build, args);
    const style = styler(context.stdout, context.environment);
    const bar = new ProgressBar(context.stderr, context.environment);
    let files: string[];
    try {
      files = await compile({
        environment: context.environment,
        signal: context.signal,
        onProgress: (file, done, total) => bar.update({ phase: "compile", message: file, fraction: done / total }),
      });
    } finally {
      bar.end();
    }
    // A file that was built but does not load is a failure.
    const check = await checkAddon(context.signal);
    if (check.status === "fail") throw new BuildError(check.detail, { hint: check.fix });
    if (values.json) context.stdout.write(`${JSON.stringify({ files })}\n`);
    else context.stdout.write(`${style("green", "built")}: ${files.join("\n       ")}\n`);
    return 0;
};
