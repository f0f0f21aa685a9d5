import type { CallOptions } from "../options";
import type { FinishReason, Usage } from "../results";
import type { SamplingParameters } from "../sampling";
import type { StandardSchema, Structure } from "./schema";

/**
 * A part of a message: `{ type: "text", text }`, `{ type: "image", image }` with the bytes of an image file, base64 text or a
 * data URL, or any other part in OpenAI's form (`image_url`, `input_audio`, ...).
 */
export type ChatContentPart = { readonly type: string } & Readonly<Record<string, unknown>>;

/** A message of a conversation, in OpenAI's form; vLLM knows further fields. */
export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant" | "tool" | (string & {});
  content?: string | readonly ChatContentPart[] | null;
  [field: string]: unknown;
}

/** A tool that the model called. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** As the model wrote them: JSON text. */
  readonly arguments: string;
}

/**
 * Options of {@link VllmModel.chat}: tritonode's own, and the fields of vLLM's chat completion request under vLLM's names. Those
 * that are not listed here go into `extra`.
 */
export interface ChatOptions<S extends Structure | undefined = Structure | undefined>
  extends CallOptions,
    Omit<SamplingParameters, "logprobs" | "extra_args"> {
  /** Constrains the answer to a schema; the result's `object` is the parsed answer. */
  structured?: S;
  tools?: readonly object[] | undefined;
  tool_choice?: "none" | "auto" | "required" | object | undefined;
  parallel_tool_calls?: boolean | undefined;
  /** Log probabilities in `response`, and how many for each token. */
  logprobs?: boolean | undefined;
  top_logprobs?: number | undefined;
  prompt_logprobs?: number | null | undefined;
  max_completion_tokens?: number | null | undefined;
  response_format?: object | undefined;
  reasoning_effort?: "none" | "minimal" | "low" | "medium" | "high" | (string & {}) | undefined;
  include_reasoning?: boolean | undefined;
  chat_template?: string | undefined;
  chat_template_kwargs?: Record<string, unknown> | undefined;
  add_generation_prompt?: boolean | undefined;
  continue_final_message?: boolean | undefined;
  add_special_tokens?: boolean | undefined;
  documents?: readonly object[] | undefined;
  mm_processor_kwargs?: Record<string, unknown> | undefined;
  /** vLLM's scheduling priority: lower is sooner (engine argument `scheduling_policy: "priority"`). */
  priority?: number | undefined;
  user?: string | undefined;
}

/** What `object` of an answer is: what the schema says, unknown by a plain JSON schema, undefined without one. */
export type StructuredAnswer<S> = S extends StandardSchema<infer T> ? T : S extends undefined ? undefined : unknown;

/** An answer: the first choice, where there are several. */
export interface ChatAnswer<T = unknown> {
  readonly text: string;
  /** The answer as the schema of `structured` says. */
  readonly object: T;
  /** The reasoning that a reasoning parser separated from the answer. */
  readonly reasoning?: string;
  readonly toolCalls: readonly ToolCall[];
  readonly finishReason: FinishReason;
  readonly usage: Usage;
  /** The assistant's message: append it to the conversation to go on. */
  readonly message: ChatMessage;
}

/** An answer with vLLM's whole response. */
export interface ChatResult<T = unknown> extends ChatAnswer<T> {
  readonly response: Readonly<Record<string, unknown>>;
}

/** A piece of a streamed answer. */
export interface ChatChunk {
  /** Which of the `n` choices it belongs to. */
  readonly index: number;
  readonly text: string;
  readonly reasoning?: string;
  /** Pieces of tool calls, in OpenAI's form. */
  readonly toolCalls?: readonly object[];
  readonly finishReason: FinishReason | null;
  /** Set on the last piece of the request, which has no text. */
  readonly usage?: Usage;
}
