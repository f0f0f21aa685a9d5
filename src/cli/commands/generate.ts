import { readFile, writeFile } from "node:fs/promises";
import { InvalidArgumentError } from "../../errors";
import { integer, jsonObject, parse, positive } from "../arguments";
import type { Command, Context } from "../context";
import { type TextModel, withModel } from "../model";

const help = `Usage: tritonode generate [options]

Runs every prompt of a text file (one a line) through a model, all at once, and writes the answers to a file.
The options are those of the client script of Triton's vLLM backend, with a model repository in place of a server's URL.

Options:
  --model-repository PATH      the folder that holds <model>/1/model.json (default: model_repository)
  -m, --model NAME             the model in it (default: vllm_model)
  -l, --lora-name NAME         the adapter to answer with (default: the base model)
  -v, --verbose                show the log, and the results at the end
  -t, --stream-timeout SECONDS stop after this many seconds (default: no limit)
  --offset N                   number the requests from N (default: 0)
  --input-prompts FILE         the prompts (default: prompts.txt)
  --results-file FILE          where the answers go (default: results.txt)
  --iterations N               how many times to run through the prompts (default: 1)
  -s, --streaming-mode         stream the answers
  --exclude-inputs-in-outputs  leave the prompt out of its answer
  --sampling-parameters JSON   more of vLLM's sampling parameters (default: temperature 0.1, top_p 0.95, max_tokens 100)
  -h, --help                   show this text

Exit code 1 when a request failed.
`;

/** The client script's own. */
const SAMPLING = { temperature: 0.1, top_p: 0.95, max_tokens: 100 };

export interface GenerateFlags {
  lora: string | undefined;
  /** Seconds for the whole run. */
  streamTimeout: number | undefined;
  offset: number;
  iterations: number;
  streaming: boolean;
  excludeInputs: boolean;
  sampling: Record<string, unknown>;
}

export const generateCommand: Command = {
  name: "generate",
  summary: "answer the prompts of a file",
  help,
  async run(args, context) {
    const { values } = parse("generate", args, {
      "model-repository": { type: "string", default: "model_repository" },
      model: { type: "string", short: "m", default: "vllm_model" },
      verbose: { type: "boolean", short: "v", default: false },
      "stream-timeout": { type: "string", short: "t" },
      offset: { type: "string", default: "0" },
      "input-prompts": { type: "string", default: "prompts.txt" },
      "results-file": { type: "string", default: "results.txt" },
      iterations: { type: "string", default: "1" },
      "streaming-mode": { type: "boolean", short: "s", default: false },
      "exclude-inputs-in-outputs": { type: "boolean", default: false },
      "lora-name": { type: "string", short: "l" },
      "sampling-parameters": { type: "string" },
    });
    const timeout = values["stream-timeout"];
    const more = values["sampling-parameters"];
    const flags: GenerateFlags = {
      lora: values["lora-name"],
      streamTimeout: timeout === undefined ? undefined : positive("--stream-timeout", timeout),
      offset: integer("--offset", values.offset, 0),
      iterations: integer("--iterations", values.iterations, 1),
      streaming: values["streaming-mode"],
      excludeInputs: values["exclude-inputs-in-outputs"],
      sampling: { ...SAMPLING, ...(more === undefined ? {} : jsonObject("--sampling-parameters", more)) },
    };
    const { stdout } = context;
    const promptsFile = values["input-prompts"];
    const resultsFile = values["results-file"];
    stdout.write(`Loading inputs from \`${promptsFile}\`...\n`);
    const prompts = readLines(await readPrompts(promptsFile));
    const where = { modelRepository: values["model-repository"], model: values.model, verbose: values.verbose };
    const { results, success } = await withModel(context, where, (model) => answer(model, prompts, flags, context));
    const text = formatResults(results);
    await writeFile(resultsFile, text);
    stdout.write(`Storing results into \`${resultsFile}\`...\n`);
    if (values.verbose) stdout.write(`\nContents of \`${resultsFile}\` ===>\n${text}\n`);
    stdout.write(`${success ? "PASS" : "FAIL"}: vLLM example\n`);
    return success ? 0 : 1;
  },
};

/** The lines of a text, each with its line end, as Python's `readlines` gives them: the line end is part of the prompt. */
export function readLines(text: string): string[] {
  return text.replace(/\r\n?/g, "\n").match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

/**
 * Sends every prompt at once, `iterations` times over. A failed request leaves an empty result and does not stop the
 * others.
 *
 * @returns id → the pieces of its answer, in the order of the ids.
 */
export async function answer(
  model: TextModel,
  prompts: readonly string[],
  flags: GenerateFlags,
  context: Pick<Context, "stdout" | "signal">,
): Promise<{ results: Map<string, string[]>; success: boolean }> {
  const results = new Map<string, string[]>();
  let success = true;
  const requests: Promise<void>[] = [];
  for (let iteration = 0; iteration < flags.iterations; iteration++) {
    for (const [index, prompt] of prompts.entries()) {
      const id = String(flags.offset + prompts.length * iteration + index);
      const pieces: string[] = [];
      results.set(id, pieces);
      requests.push(
        one(id, prompt, pieces).catch((error: Error) => {
          success = false;
          context.stdout.write(`Encountered error while processing: ${error.message}\n`);
        }),
      );
    }
  }
  await Promise.all(requests);
  context.signal.throwIfAborted();
  return { results, success };

  async function one(id: string, prompt: string, pieces: string[]): Promise<void> {
    const options = {
      ...flags.sampling,
      requestId: id,
      signal: context.signal,
      ...(flags.lora === undefined ? {} : { lora: flags.lora }),
      ...(flags.streamTimeout === undefined ? {} : { deadline: flags.streamTimeout * 1000 }),
    };
    const start = flags.excludeInputs ? "" : prompt;
    if (!flags.streaming) {
      pieces.push(start + (await model.generate(prompt, options)).text);
      return;
    }
    let first = true;
    for await (const { text } of model.stream(prompt, options)) {
      pieces.push(first ? start + text : text);
      first = false;
    }
  }
}

/** The client script's file: for each id its pieces, then a line of `=` between empty lines. */
export function formatResults(results: ReadonlyMap<string, readonly string[]>): string {
  return [...results.values()].map((pieces) => `${pieces.join("")}\n\n=========\n\n`).join("");
}

async function readPrompts(file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    throw new InvalidArgumentError(`the prompts can't be read: ${(cause as Error).message}`, {
      hint: "name a text file with one prompt a line: --input-prompts FILE",
      cause,
    });
  }
}
