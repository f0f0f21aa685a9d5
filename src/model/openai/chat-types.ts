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
  /** The author of the message. */
  role: "system" | "developer" | "user" | "assistant" | "tool" | (string & {});
  /** A text, or parts (`{ type: "text", text }`, `{ type: "image_url", image_url }`); null for tool calls without a text. */
  content?: string | readonly ChatContentPart[] | null;
  [field: string]: unknown;
}

/**
 * A message that a call takes: a {@link ChatMessage}, or one of another package's types in OpenAI's form, for example
 * `ChatCompletionMessageParam` of `openai`. Such interfaces have no index signature, so a {@link ChatMessage} alone would refuse them.
 */
export type ChatMessageLike =
  | ChatMessage
  | {
      /** The author of the message. */
      readonly role: string;
      /** A text, or parts; null for tool calls without a text. */
      readonly content?: string | readonly { readonly type: string }[] | null | undefined;
    };

/** A tool that the model called. */
export interface ToolCall {
  /** Names the call in the message that gives its result (`tool_call_id`). */
  readonly id: string;
  /** The tool's name. */
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
    Omit<SamplingParameters, "logprobs" | "extra_args" | "skip_reading_prefix_cache"> {
  /** Constrains the answer to a schema; the result's `object` is the parsed answer. */
  structured?: S;
  /**
   * The tools that the model may call, in OpenAI's form: `{ type: "function", function: { name, description, parameters
   * } }`.
   */
  tools?: readonly object[] | undefined;
  /**
   * Whether it calls tools: `"auto"` (default with tools), `"none"`, `"required"`, or `{ type: "function", function: {
   * name } }` for one.
   */
  tool_choice?: "none" | "auto" | "required" | object | undefined;
  /** Whether it may call several tools at once; vLLM's default is true. */
  parallel_tool_calls?: boolean | undefined;
  /** Log probabilities in `response`, and how many for each token. */
  logprobs?: boolean | undefined;
  /** The number of most likely tokens at each position (0 to 20); requires `logprobs: true`. */
  top_logprobs?: number | undefined;
  /** Log probabilities of the prompt's tokens, this many for each. */
  prompt_logprobs?: number | null | undefined;
  /** Maximum number of tokens of the answer; OpenAI's newer name of `max_tokens`. Default: as many as the context holds. */
  max_completion_tokens?: number | null | undefined;
  /** OpenAI's format of structured output; `structured` is shorter. */
  response_format?: object | undefined;
  /** How long a reasoning model thinks, if its template supports this. */
  reasoning_effort?: "none" | "minimal" | "low" | "medium" | "high" | (string & {}) | undefined;
  /** Whether `reasoning` is in the answer; vLLM's default is true. */
  include_reasoning?: boolean | undefined;
  /** A Jinja template to use instead of the model's own. */
  chat_template?: string | undefined;
  /** Values for the template, e.g. `{ enable_thinking: false }`. */
  chat_template_kwargs?: Record<string, unknown> | undefined;
  /** Whether the prompt ends with the beginning of the assistant's message. Default true. */
  add_generation_prompt?: boolean | undefined;
  /** Continue the last message instead of answering it; requires `add_generation_prompt: false`. */
  continue_final_message?: boolean | undefined;
  /** Add the begin-of-text token to the template's output. Default false, because templates usually contain it. */
  add_special_tokens?: boolean | undefined;
  /** Documents for a template that supports them (retrieval). */
  documents?: readonly object[] | undefined;
  /** Options of the model's image processor. */
  mm_processor_kwargs?: Record<string, unknown> | undefined;
  /** vLLM's scheduling priority: lower is sooner (engine argument `scheduling_policy: "priority"`). */
  priority?: number | undefined;
  /** A name for your own accounting; vLLM does not use it. */
  user?: string | undefined;
  /** For `chatStream`: with `continuous_usage_stats: true` every piece has the token counts so far, not only the last one. */
  stream_options?: { readonly continuous_usage_stats?: boolean | undefined } | undefined;
}

/** The type of an answer's `object`: the schema's type, `unknown` for a plain JSON schema, `undefined` without a schema. */
export type StructuredAnswer<S> = S extends StandardSchema<infer T> ? T : S extends undefined ? undefined : unknown;

/** An answer: the first choice, if there are several. */
export interface ChatAnswer<T = unknown> {
  /** The answer; empty if the model only called tools. */
  readonly text: string;
  /** The answer, parsed and checked by the schema of `structured`. */
  readonly object: T;
  /** The reasoning that a reasoning parser separated from the answer. */
  readonly reasoning?: string;
  /** The tools that the model called; empty if there are none. */
  readonly toolCalls: readonly ToolCall[];
  /** Why it ended: `"stop"`, `"length"` (cut off at `max_tokens`), `"tool_calls"`. */
  readonly finishReason: FinishReason;
  /** Tokens of the conversation and of the answer. */
  readonly usage: Usage;
  /** The assistant's message: append it to the messages to continue the conversation. */
  readonly message: ChatMessage;
}

/** An answer with vLLM's whole response. */
export interface ChatResult<T = unknown> extends ChatAnswer<T> {
  /** vLLM's response to the HTTP request, unchanged. */
  readonly response: Readonly<Record<string, unknown>>;
}

/** A piece of a streamed answer. */
export interface ChatChunk {
  /** Which of the `n` choices it belongs to. */
  readonly index: number;
  /** The new text; may be empty. */
  readonly text: string;
  /** New text of the reasoning, with a reasoning parser. */
  readonly reasoning?: string;
  /** Pieces of tool calls, in OpenAI's format. */
  readonly toolCalls?: readonly object[];
  /** Set on the last piece of a choice. */
  readonly finishReason: FinishReason | null;
  /**
   * Tokens of the request and its answers so far: on the last piece, which has no text; with `stream_options: {
   * continuous_usage_stats: true }` on every piece.
   */
  readonly usage?: Usage;
}
