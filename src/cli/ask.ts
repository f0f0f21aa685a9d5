import { nearest } from "../common/nearest";
import { InvalidArgumentError } from "../errors";
import type { VllmModel } from "../model";
import type { ChatMessage } from "../model/openai";
import { chatFields } from "../model/openai/fields";
import { integer, jsonObject, number } from "./arguments";

/** The part of {@link VllmModel} that a question needs. */
export type AskedModel = Pick<VllmModel, "chatStream" | "stream" | "tokenize">;

/** A question: a conversation for the chat template, or a text to continue. */
export type Question =
  | { readonly messages: readonly ChatMessage[] }
  | { readonly prompt: string; readonly images?: readonly Uint8Array[] };

/** Options of a question, besides vLLM's sampling parameters. */
export interface AskOptions {
  readonly lora?: string | undefined;
  readonly signal: AbortSignal;
  /** Stops the answer: what came so far is the answer, with "stopped" as its finishReason. */
  readonly stop?: AbortSignal;
  readonly sampling: Readonly<Record<string, unknown>>;
}

/** An answer and how long it took. */
export interface Answer {
  readonly text: string;
  /** vLLM's reason why it ended: "length" if --max-tokens cut it off; "stopped" if the user stopped it. */
  readonly finishReason: string;
  readonly promptTokens: number;
  readonly completionTokens: number;
  /** From the question to the end of the answer. */
  readonly seconds: number;
  /** From the question to the first piece of the answer. */
  readonly firstSeconds: number;
  /** After the first token; undefined for an answer of one token. */
  readonly tokensPerSecond: number | undefined;
}

/**
 * Finds out whether the model has a chat template, by a request to vLLM's application that needs it.
 *
 * @throws what a request throws, except the error of a model without a chat template
 */
export async function hasChatTemplate(model: Pick<VllmModel, "tokenize">): Promise<boolean> {
  try {
    await model.tokenize([{ role: "user", content: "?" }]);
    return true;
  } catch (error) {
    // Every template accepts a single user message.
    if (error instanceof InvalidArgumentError) return false;
    throw error;
  }
}

/** Asks a question. `onText` gets each piece of the answer as it comes. */
export async function ask(
  model: AskedModel,
  question: Question,
  { lora, signal, stop, sampling }: AskOptions,
  onText: (text: string) => void = () => {},
): Promise<Answer> {
  const signals = stop === undefined ? signal : AbortSignal.any([signal, stop]);
  const options = { ...sampling, signal: signals, ...(lora === undefined ? {} : { lora }) };
  const began = performance.now();
  let first: number | undefined;
  let text = "";
  let finishReason = "unknown";
  let usage = { promptTokens: 0, completionTokens: 0 };
  try {
    for await (const piece of pieces(model, question, options)) {
      if (piece.text !== "") first ??= performance.now();
      if (piece.finishReason !== null) finishReason = piece.finishReason;
      if (piece.usage !== undefined) usage = piece.usage;
      text += piece.text;
      onText(piece.text);
    }
  } catch (error) {
    if (!stop?.aborted || signal.aborted) throw error;
    finishReason = "stopped";
  }
  const end = performance.now();
  const { promptTokens, completionTokens } = usage;
  const after = end - (first ?? end);
  return {
    text,
    finishReason,
    promptTokens,
    completionTokens,
    seconds: (end - began) / 1000,
    firstSeconds: ((first ?? end) - began) / 1000,
    tokensPerSecond: completionTokens > 1 && after > 0 ? ((completionTokens - 1) / after) * 1000 : undefined,
  };
}

function pieces(model: AskedModel, question: Question, options: Readonly<Record<string, unknown>>) {
  if ("messages" in question) {
    // An answer that is stopped has no last piece, which would have the number of its tokens.
    return model.chatStream(question.messages, { stream_options: { continuous_usage_stats: true }, ...options });
  }
  const { prompt, images } = question;
  return model.stream(prompt, images === undefined ? options : { ...options, images });
}

/** One line about an answer: tokens, their rate, and whether it was cut off. */
export function speedNote({ completionTokens, tokensPerSecond, firstSeconds, finishReason }: Answer): string {
  // A text without a chat template has its number of tokens on its last piece only.
  if (finishReason === "stopped" && completionTokens === 0) return "stopped";
  const parts = [`${completionTokens} token${completionTokens === 1 ? "" : "s"}`];
  if (tokensPerSecond !== undefined) parts.push(`${tokensPerSecond.toFixed(1)} tokens/s`);
  parts.push(`the first after ${firstSeconds.toFixed(2)} s`);
  if (finishReason === "length") parts.push("cut off (--max-tokens N allows more)");
  if (finishReason === "stopped") parts.push("stopped");
  return parts.join(", ");
}

/** An answer as --json prints it. */
export function answerJson(answer: Answer, lora: string | undefined) {
  const { text, finishReason, promptTokens, completionTokens } = answer;
  const rounded = (value: number | undefined) => (value === undefined ? undefined : Number(value.toFixed(3)));
  return {
    text,
    finish_reason: finishReason,
    lora: lora ?? null,
    usage: { prompt_tokens: promptTokens, completion_tokens: completionTokens },
    seconds: rounded(answer.seconds),
    first_seconds: rounded(answer.firstSeconds),
    tokens_per_second: rounded(answer.tokensPerSecond),
  };
}

/** Options of a command line that become sampling parameters. */
export interface SamplingFlags {
  "max-tokens": string;
  temperature?: string | undefined;
  "top-p"?: string | undefined;
  seed?: string | undefined;
  "sampling-parameters"?: string | undefined;
}

/** Sampling parameters under vLLM's names. @throws {@link InvalidArgumentError} naming the option */
export function samplingOf(flags: SamplingFlags): Record<string, unknown> {
  const { temperature, "top-p": topP, seed } = flags;
  const text = flags["sampling-parameters"];
  const more = text === undefined ? {} : jsonObject("--sampling-parameters", text);
  if ((more["n"] ?? 1) !== 1) {
    throw new InvalidArgumentError(
      `--sampling-parameters: n is ${JSON.stringify(more["n"])}, and there is one answer`,
      {
        hint: "leave n out",
      },
    );
  }
  checkSpelling(more);
  return {
    max_tokens: integer("--max-tokens", flags["max-tokens"], 1),
    ...(temperature === undefined ? {} : { temperature: temperatureOf(temperature) }),
    ...(topP === undefined ? {} : { top_p: topPOf(topP) }),
    ...(seed === undefined ? {} : { seed: integer("--seed", seed, 0) }),
    ...more,
  };
}

// vLLM would refuse these as well, but only after the model was loaded.

function temperatureOf(text: string): number {
  const value = number("--temperature", text);
  if (value >= 0) return value;
  throw new InvalidArgumentError(`--temperature ${JSON.stringify(text)} is below 0`, {
    hint: "0 gives the most likely answer, higher values more variety",
  });
}

function topPOf(text: string): number {
  const value = number("--top-p", text);
  if (value > 0 && value <= 1) return value;
  throw new InvalidArgumentError(`--top-p ${JSON.stringify(text)} is not above 0 and at most 1`, {
    hint: "for example: --top-p 0.95",
  });
}

/** Refuses a name that is close to a known one. Other names may be known to the call that is made, or to another vLLM. */
function checkSpelling(parameters: Readonly<Record<string, unknown>>): void {
  for (const name of Object.keys(parameters)) {
    const near = chatFields.includes(name) ? undefined : nearest(name, chatFields);
    if (near === undefined) continue;
    throw new InvalidArgumentError(`--sampling-parameters: there is no parameter ${JSON.stringify(name)}`, {
      hint: `did you mean ${near}?`,
    });
  }
}
