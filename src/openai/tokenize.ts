import { InvalidArgumentError } from "../errors";
import { type CallOptions, type Door, post } from "./call";
import type { ChatMessage } from "./chat";

/** Options of {@link VllmModel.tokenize}; further fields of vLLM's request go along. */
export interface TokenizeOptions extends CallOptions {
  /** Begin-of-text and the like; by default true for a text and false for messages, whose template has them. */
  add_special_tokens?: boolean | undefined;
  [field: string]: unknown;
}

export interface TokenizeResult {
  readonly tokens: readonly number[];
  readonly count: number;
  /** The longest sequence that the model takes. */
  readonly maxModelLen: number;
}

/** See {@link VllmModel.tokenize}. */
export async function tokenize(
  door: Door,
  input: string | readonly ChatMessage[],
  options: TokenizeOptions,
): Promise<TokenizeResult> {
  if (typeof input !== "string" && !Array.isArray(input)) {
    throw new InvalidArgumentError("tokenize takes a text or a list of messages");
  }
  const { lora: _lora, signal: _signal, deadline: _deadline, ...fields } = options;
  const request = { ...(typeof input === "string" ? { prompt: input } : { messages: input }), ...fields };
  const response = await post(door, "/tokenize", request, options);
  const answer = (await response.json()) as { tokens: number[]; count: number; max_model_len: number };
  return { tokens: answer.tokens, count: answer.count, maxModelLen: answer.max_model_len };
}

/** See {@link VllmModel.detokenize}. */
export async function detokenize(door: Door, tokens: readonly number[], options: CallOptions): Promise<string> {
  if (!Array.isArray(tokens) || !tokens.every((token) => Number.isInteger(token))) {
    throw new InvalidArgumentError("detokenize takes a list of token ids");
  }
  const response = await post(door, "/detokenize", { tokens }, options);
  return ((await response.json()) as { prompt: string }).prompt;
}
