import { readFileSync } from "node:fs";
import { InvalidArgumentError } from "../../errors";
import { integer, parse } from "../arguments";
import { answerJson, ask, hasChatTemplate, type Question, speedNote } from "../ask";
import { type AskSettings, askSettings, namesModel } from "../ask-settings";
import { runFile } from "../batch/run-file";
import type { Context, Run } from "../context";
import { withModel } from "../model";
import { run as spec } from "../table/models";
import { styler } from "../terminal";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const words = [...positionals];
  // The model's name may be left out before a file of prompts: then it is ./model_repository.
  const model = namesModel(values) || (words.length === 1 && isFile(words[0])) ? undefined : words.shift();
  const file = values.file ?? (words.length === 1 && isFile(words[0]) ? words.shift() : undefined);
  if (values.file !== undefined && words.length > 0) {
    throw new InvalidArgumentError(`--file and the prompt ${JSON.stringify(words[0])} cannot be used together`);
  }
  const stray = words.find(isFile);
  if (stray !== undefined) {
    throw new InvalidArgumentError(`${JSON.stringify(stray)} is a file of prompts, and not the only word`, {
      hint: "one file at a time: tritonode run MODEL FILE --out RESULTS",
    });
  }
  if (file === undefined && values.out !== undefined) {
    throw new InvalidArgumentError("--out goes with a file of prompts", {
      hint: "the answer to one prompt goes to standard output: > FILE",
    });
  }
  const settings = askSettings(values, model);
  if (file !== undefined) {
    const text = file === "-" ? await readInput(context) : readFile(file);
    const parallel = integer("--parallel", values.parallel, 1);
    return runFile(context, settings, { file, text, out: values.out, use: values.use, parallel });
  }
  const prompt = await promptOf(words, context);
  return runPrompt(context, settings, prompt, values.use, values.json);
};

function isFile(word: string | undefined): boolean {
  return word !== undefined && /\.(jsonl|ndjson)$/i.test(word);
}

function readFile(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new InvalidArgumentError(`the prompts can't be read: ${(cause as Error).message}`, {
      hint: 'name a file with one JSON object a line, such as {"prompt": "..."}',
      cause,
    });
  }
}

async function promptOf(words: readonly string[], context: Context): Promise<string> {
  const parts = words.length === 0 ? ["-"] : words;
  if (parts.includes("-") && context.stdin.isTTY) {
    throw new InvalidArgumentError("which prompt?", {
      hint: 'tritonode run MODEL "the prompt", or a prompt on standard input; to talk with a model: tritonode chat MODEL',
    });
  }
  const input = parts.includes("-") ? await readInput(context) : "";
  const prompt = parts.map((part) => (part === "-" ? input : part)).join("\n\n");
  if (prompt.trim() === "") throw new InvalidArgumentError("the prompt is empty");
  return prompt;
}

/** Reads all of standard input, without a final line end. */
async function readInput({ stdin, signal }: Context): Promise<string> {
  signal.throwIfAborted();
  const stop = () => stdin.destroy();
  signal.addEventListener("abort", stop, { once: true });
  try {
    stdin.setEncoding("utf8");
    let text = "";
    for await (const piece of stdin) text += piece;
    return text.replace(/\r?\n$/, "");
  } finally {
    signal.removeEventListener("abort", stop);
    signal.throwIfAborted();
  }
}

async function runPrompt(
  context: Context,
  settings: AskSettings,
  prompt: string,
  use: string | undefined,
  json: boolean,
): Promise<number> {
  const { stdout, stderr, signal, environment } = context;
  const note = styler(stderr, environment);
  const tell = (text: string) => void (settings.quiet || stderr.write(`${note("dim", text)}\n`));
  return withModel(context, settings.load, async (model) => {
    const lora = use ?? settings.load.adapters[0]?.name;
    const template = !settings.raw && (await hasChatTemplate(model));
    if (!template && !settings.raw) tell("the model has no chat template: it continues the prompt");
    if (!template && settings.system !== undefined) tell("--system is not used: it needs a chat template");
    let last = "\n";
    const answer = await ask(
      model,
      template ? conversation(settings.system, prompt) : { prompt },
      { lora, signal, sampling: settings.sampling },
      (text) => {
        if (json || text === "") return;
        stdout.write(text);
        last = text;
      },
    );
    if (json) stdout.write(`${JSON.stringify(answerJson(answer, lora))}\n`);
    else if (!last.endsWith("\n") || answer.text === "") stdout.write("\n");
    tell(speedNote(answer));
    return 0;
  });
}

/** A prompt as a conversation of one turn. */
export function conversation(system: string | undefined, prompt: string): Question {
  const messages = [{ role: "user", content: prompt }];
  return { messages: system === undefined ? messages : [{ role: "system", content: system }, ...messages] };
}
