import { readFile, writeFile } from "node:fs/promises";
import { InvalidArgumentError } from "../../errors";
import { integer, jsonObject, parse, positive } from "../arguments";
import type { Context, Run } from "../context";
import { type TextModel, withModel } from "../model";
import { errorFields } from "../report-error";
import { generate } from "../table/models";

/** The defaults of the client script. */
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

export const run: Run = async (args, context) => {
  const { values } = parse(generate, args);
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
  const say = (text: string) => (values.json ? context.stderr : stdout).write(`${text}\n`);
  say(`Loading inputs from \`${promptsFile}\`...`);
  const prompts = readLines(await readPrompts(promptsFile));
  const source = { kind: "repository", repository: values["model-repository"], name: values.model } as const;
  const { results, errors } = await withModel(context, { source, verbose: values.verbose }, (model) =>
    answer(model, prompts, flags, { signal: context.signal, say }),
  );
  const text = formatResults(results);
  await writeFile(resultsFile, text);
  say(`Storing results into \`${resultsFile}\`...`);
  if (values.verbose) say(`\nContents of \`${resultsFile}\` ===>\n${text}`);
  for (const [id, pieces] of values.json ? results : []) {
    const error = errors.get(id);
    const result = error === undefined ? { id, text: pieces.join("") } : { id, error: errorFields(error) };
    stdout.write(`${JSON.stringify(result)}\n`);
  }
  say(`${errors.size === 0 ? "PASS" : "FAIL"}: vLLM example`);
  return errors.size === 0 ? 0 : 1;
};

/** The lines of a text, each with its line end, as Python's `readlines` gives them: the line end is part of the prompt. */
export function readLines(text: string): string[] {
  return text.replace(/\r\n?/g, "\n").match(/[^\n]*\n|[^\n]+$/g) ?? [];
}

/**
 * Sends every prompt at once, `iterations` times over. A failed request leaves an empty result and does not stop the
 * others.
 *
 * @returns id → the pieces of its answer, in the order of the ids; and id → the error of a request that failed.
 */
export async function answer(
  model: TextModel,
  prompts: readonly string[],
  flags: GenerateFlags,
  context: Pick<Context, "signal"> & { say(text: string): void },
): Promise<{ results: Map<string, string[]>; errors: Map<string, Error> }> {
  const results = new Map<string, string[]>();
  const errors = new Map<string, Error>();
  const requests: Promise<void>[] = [];
  for (let iteration = 0; iteration < flags.iterations; iteration++) {
    for (const [index, prompt] of prompts.entries()) {
      const id = String(flags.offset + prompts.length * iteration + index);
      const pieces: string[] = [];
      results.set(id, pieces);
      requests.push(
        one(id, prompt, pieces).catch((error: Error) => {
          errors.set(id, error);
          context.say(`Encountered error while processing: ${error.message}`);
        }),
      );
    }
  }
  await Promise.all(requests);
  context.signal.throwIfAborted();
  return { results, errors };

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
