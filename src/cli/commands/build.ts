import { BuildError, compile } from "../../runtime/install/compile";
import { checkAddon } from "../../runtime/check/doctor";
import { parse } from "../arguments";
import type { Command } from "../context";
import { ProgressBar } from "../progress-bar";
import { styler } from "../terminal";

const help = `Usage: tritonode build [options]

Builds the native addon and the CPU kernels from the sources in the package, for this machine, and uses them from then
on instead of those that came with it. It needs a C++20 compiler (GCC 11, Clang 14 or later) and nothing else. Usually
this is not needed: the package brings both for Linux on x64 and arm64.

Options:
  -h, --help            show this text

CXX names another compiler than the first of c++, g++ and clang++ on PATH.
`;

export const buildCommand: Command = {
  name: "build",
  summary: "build the native addon on this machine, from the package's sources",
  help,
  async run(args, context) {
    parse("build", args, {});
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
    context.stdout.write(`${style("green", "built")}: ${files.join("\n       ")}\n`);
    return 0;
  },
};
