import { delimiter, join, resolve } from "node:path";
import { InvalidArgumentError, TritonodeError } from "../../errors";
import { packageRoot } from "../../package-root";
import { findRuntime } from "../../runtime";
import { run } from "../../runtime/process";
import { parse } from "../arguments";
import type { Command } from "../context";
import { ProgressBar } from "../progress-bar";
import { styler } from "../terminal";

const help = `Usage: tritonode quantize SRC OUT [options]

Quantizes the linear layers of a Hugging Face folder to 4 or 8 bits, and writes a folder that is loaded as any other:
engine: { model: "OUT" }, adapters for the original included. Then measures what it costs: the perplexity of a text,
before and after, by the engine itself.

Options:
  --bits 4|8            bits of a weight (default: 4)
  --text FILE           the text to measure with (default: this package's README)
  --no-perplexity       do not measure
  -h, --help            show this text

Weights are rounded to the nearest, in groups of 32 (8 bits: up to 128) that share a scale; the format is
compressed-tensors' W4A16 or W8A16. Embeddings and the logits' layer stay as they are.
`;

/** What the Python part tells, a line of JSON each. */
type Told =
  | { quantise: "weights"; name: string; fraction: number }
  | { quantise: "perplexity"; fraction: number }
  | { quantise: "error"; message: string }
  | { quantise: "done"; layers: number; before?: number; after?: number };

export const quantizeCommand: Command = {
  name: "quantize",
  summary: "make a 4-bit or 8-bit model of a Hugging Face folder",
  help,
  async run(args, context) {
    const { values, positionals } = parse(
      "quantize",
      args,
      {
        bits: { type: "string", default: "4" },
        text: { type: "string" },
        "no-perplexity": { type: "boolean", default: false },
      },
      2,
    );
    const [source, out] = positionals;
    if (source === undefined || out === undefined) {
      throw new InvalidArgumentError("quantize needs a folder to read and one to write", {
        hint: "npx tritonode quantize ./llama ./llama-4bit --bits 4",
      });
    }
    if (values.bits !== "4" && values.bits !== "8") {
      throw new InvalidArgumentError(`--bits ${JSON.stringify(values.bits)} is neither 4 nor 8`);
    }
    const { python } = await findRuntime();
    const text = values["no-perplexity"] ? [] : ["--text", resolve(values.text ?? join(packageRoot(), "README.md"))];
    const bar = new ProgressBar(context.stderr, context.environment);
    let last: Told | undefined;
    const result = await run(
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
          if (told.quantise === "weights")
            bar.update({ phase: "weights", message: told.name, fraction: told.fraction });
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
    const style = styler(context.stdout, context.environment);
    context.stdout.write(
      `${style("green", "quantized")}: ${end.layers} layers to ${values.bits} bits in ${resolve(out)}\n`,
    );
    if (end.before !== undefined && end.after !== undefined) {
      const given = ((end.after / end.before - 1) * 100).toFixed(2);
      context.stdout.write(`perplexity: ${end.before.toFixed(3)} before, ${end.after.toFixed(3)} after (${given}%)\n`);
    }
    return 0;
  },
};

function parseLine(line: string): Told | undefined {
  if (!line.startsWith('{"quantise"')) return undefined;
  try {
    return JSON.parse(line) as Told;
  } catch {
    return undefined;
  }
}
