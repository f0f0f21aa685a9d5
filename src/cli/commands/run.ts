import { readFileSync } from "node:fs";
import { InvalidArgumentError } from "../../errors";
import type { ChatMessage } from "../../model/openai";
import { integer, parse } from "../arguments";
import { answerJson, ask, hasChatTemplate, speedNote } from "../ask";
import { type AskSettings, askSettings, namesModel } from "../ask-settings";
import { runFile } from "../batch/run-file";
import type { Context, Run } from "../context";
import { checkVision, readImages } from "../images";
import { withModel } from "../model";
import { checkGiven } from "../model-source";
import { run as spec } from "../table/models";
import { styler } from "../terminal";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const rest = [...positionals];
  // The model's name may be left out before a file of prompts: then it is ./model_repository.
  const model = namesModel(values) || (rest.length === 1 && isFile(rest[0])) ? undefined : rest.shift();
  const file = values.file ?? (rest.length === 1 && isFile(rest[0]) ? rest.shift() : undefined);
  if (values.file !== undefined && rest.length > 0) {
    throw new InvalidArgumentError(`--file and the prompt ${JSON.stringify(rest[0])} cannot be used together`);
  }
  const stray = rest.find(isFile);
  if (stray !== undefined) {
    throw new InvalidArgumentError(`${JSON.stringify(stray)} is a file of prompts, and there are other arguments`, {
      hint: "one file at a time: tritonode run MODEL FILE --out RESULTS",
    });
  }
  if (file === undefined && values.out !== undefined) {
    throw new InvalidArgumentError("--out goes with a file of prompts", {
      hint: "the answer to one prompt goes to standard output: > FILE",
    });
  }
  const images = readImages(values.image ?? []);
  if (file !== undefined && images.length > 0) {
    throw new InvalidArgumentError("--image is for one prompt, not for a file of prompts", {
      hint: 'in a file, images are parts of messages: {"type": "image_url", "image_url": {"url": "data:..."}}',
    });
  }
  const settings = askSettings(values, model);
  if (images.length > 0) checkVision(settings.load.source);
  if (file !== undefined) {
    const text = file === "-" ? await readInput(context) : readFile(file);
    const parallel = integer("--parallel", values.parallel, 1);
    return runFile(context, settings, { file, text, out: values.out, use: values.use, parallel });
  }
  if (values.use !== undefined) checkGiven(settings.load, values.use, "--use");
  const prompt = await promptOf(rest, context);
  return runPrompt(context, settings, { prompt, images }, values.use, values.json);
};

/** What is asked. */
interface Prompted {
  readonly prompt: string;
  readonly images: readonly Uint8Array[];
}

function isFile(argument: string | undefined): boolean {
  return argument !== undefined && /\.(jsonl|ndjson)$/i.test(argument);
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

async function promptOf(positionals: readonly string[], context: Context): Promise<string> {
  const parts = positionals.length === 0 ? ["-"] : positionals;
  if (parts.includes("-") && context.stdin.isTTY) {
    throw new InvalidArgumentError("PROMPT is missing", {
      hint: 'tritonode run MODEL "the prompt", or a prompt on standard input; to talk with a model: tritonode chat MODEL',
    });
  }
  const input = parts.includes("-") ? await readInput(context) : "";
  const prompt = parts.map((part) => (part === "-" ? input : part)).join("\n\n");
  if (prompt.trim() === "")
    throw new InvalidArgumentError("the prompt is empty", { hint: 'give some text: tritonode run MODEL "the prompt"' });
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
  { prompt, images }: Prompted,
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
      template ? conversation(settings.system, prompt, images) : { prompt, ...(images.length === 0 ? {} : { images }) },
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
export function conversation(
  system: string | undefined,
  prompt: string,
  images: readonly Uint8Array[] = [],
): { messages: ChatMessage[] } {
  const parts = images.map((image) => ({ type: "image", image }));
  const content = images.length === 0 ? prompt : [...parts, { type: "text", text: prompt }];
  const messages: ChatMessage[] = [{ role: "user", content }];
  return { messages: system === undefined ? messages : [{ role: "system", content: system }, ...messages] };
}
