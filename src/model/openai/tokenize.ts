import { InvalidArgumentError } from "../../errors";
import { type CallOptions, checkOptions } from "../options";
import { type OpenAiRoutes, post } from "./call";
import type { ChatMessageLike } from "./chat-types";
import { tokenizeFields } from "./fields";
import { toMessages } from "./messages";
import type { TokenizeOptions } from "./request-types";

/** The result of {@link VllmModel.tokenize}. */
export interface TokenizeResult {
  /** The token ids. */
  readonly tokens: readonly number[];
  /** The number of tokens. */
  readonly count: number;
  /** The maximum length of a sequence, in tokens (`max_model_len`). */
  readonly maxModelLen: number;
}

/** See {@link VllmModel.tokenize}. */
export async function tokenize(
  routes: OpenAiRoutes,
  input: string | readonly ChatMessageLike[],
  options: TokenizeOptions,
): Promise<TokenizeResult> {
  if (typeof input !== "string" && !Array.isArray(input)) {
    throw new InvalidArgumentError("tokenize takes a text or a list of messages");
  }
  const checked = checkOptions(options, { call: "tokenize", fields: tokenizeFields });
  const what = typeof input === "string" ? { prompt: input } : { messages: toMessages(input) };
  const request = { ...what, ...checked.fields };
  const { json } = await post(routes, "/tokenize", request, checked);
  const answer = await json<{ tokens: number[]; count: number; max_model_len: number }>();
  return { tokens: answer.tokens, count: answer.count, maxModelLen: answer.max_model_len };
}

/** See {@link VllmModel.detokenize}. */
export async function detokenize(
  routes: OpenAiRoutes,
  tokens: readonly number[],
  options: CallOptions,
): Promise<string> {
  if (!Array.isArray(tokens) || !tokens.every((token) => Number.isInteger(token))) {
    throw new InvalidArgumentError("detokenize takes a list of token ids");
  }
  const checked = checkOptions(options, { call: "detokenize", fields: [] });
  const { json } = await post(routes, "/detokenize", { tokens, ...checked.fields }, checked);
  return (await json<{ prompt: string }>()).prompt;
}
