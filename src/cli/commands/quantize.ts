import { delimiter, join, resolve } from "node:path";
import { InvalidArgumentError, TritonodeError } from "../../errors";
import { packageRoot } from "../../package-root";
import { findRuntime } from "../../runtime";
import { run as runProgram } from "../../runtime/process";
import { parse } from "../arguments";
import type { Run } from "../context";
import { ProgressBar } from "../progress-bar";
import { quantize } from "../table/models";
import { styler } from "../terminal";

/** The messages of the Python part, one JSON object on each line. */
type Told =
  | { quantise: "weights"; name: string; fraction: number }
  | { quantise: "perplexity"; fraction: number }
  | { quantise: "error"; message: string }
  | { quantise: "done"; layers: number; before?: number; after?: number };

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(quantize, args);
  const [source = "", out = ""] = positionals;
  const { python } = await findRuntime();
  const text = values["no-perplexity"] ? [] : ["--text", resolve(values.text ?? join(packageRoot(), "README.md"))];
  const bar = new ProgressBar(context.stderr, context.environment);
  let last: Told | undefined;
  const result = await runProgram(
    python,
    ["-m", "tritonode.quantise", resolve(source), resolve(out), "--bits", values.bits, ...text],
    {
      environment: {
        ...context.environment,
        PYTHONPATH: [join(packageRoot(), "backends", "vllm"), context.environment.PYTHONPATH ?? ""]
          .filter((path) => path !== "")
          .join(delimiter),
        VLLM_LOGGING_LEVEL: context.environment.VLLM_LOGGING_LEVEL ?? "ERROR",
      },
      signal: context.signal,
      onLine(line, stream) {
        const told = stream === "stdout" ? parseLine(line) : undefined;
        if (told === undefined) return;
        last = told;
        if (told.quantise === "weights") bar.update({ phase: "weights", message: told.name, fraction: told.fraction });
        if (told.quantise === "perplexity") bar.update({ phase: "perplexity", message: "perplexity" });
      },
    },
  ).finally(() => bar.end());
  const end = last as Told | undefined;
  if (end?.quantise === "error") throw new InvalidArgumentError(end.message);
  if (result.code !== 0 || end?.quantise !== "done") {
    throw new TritonodeError("ERR_QUANTIZE", `the Python that quantizes ended with ${result.code ?? result.signal}`, {
      hint: result.stderr.trimEnd().split("\n").slice(-5).join("\n"),
    });
  }
  if (values.json) {
    const { layers, before, after } = end;
    context.stdout.write(
      `${JSON.stringify({ out: resolve(out), bits: Number(values.bits), layers, before, after })}\n`,
    );
    return 0;
  }
  const style = styler(context.stdout, context.environment);
  context.stdout.write(
    `${style("green", "quantized")}: ${end.layers} layers to ${values.bits} bits in ${resolve(out)}\n`,
  );
  if (end.before !== undefined && end.after !== undefined) {
    const given = ((end.after / end.before - 1) * 100).toFixed(2);
    context.stdout.write(`perplexity: ${end.before.toFixed(3)} before, ${end.after.toFixed(3)} after (${given}%)\n`);
  }
  return 0;
};

function parseLine(line: string): Told | undefined {
  if (!line.startsWith('{"quantise"')) return undefined;
  try {
    return JSON.parse(line) as Told;
  } catch {
    return undefined;
  }
}
