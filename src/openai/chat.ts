import { InvalidArgumentError } from "../errors";
import type { FinishReason, Usage } from "../vllm/results";
import type { SamplingParameters } from "../vllm/sampling";
import { type CallOptions, type Door, fromFetchFailure, post } from "./call";
import { HttpStatusError } from "./errors";
import { parseStructured, type Structure, toJsonSchema } from "./schema";
import { readEvents } from "./sse";

/** A message of a conversation, in OpenAI's form; vLLM knows further fields. */
export interface ChatMessage {
  role: "system" | "developer" | "user" | "assistant" | "tool" | (string & {});
  content?: string | readonly ({ type: string } & Record<string, unknown>)[] | null;
  [field: string]: unknown;
}

/** A tool that the model called. */
export interface ToolCall {
  readonly id: string;
  readonly name: string;
  /** As the model wrote them: JSON text. */
  readonly arguments: string;
}

/** vLLM's sampling parameters but for `logprobs`, which a chat takes as a boolean beside `top_logprobs`. */
type ChatSampling = {
  [Name in keyof SamplingParameters as string extends Name
    ? never
    : Exclude<Name, "logprobs">]: SamplingParameters[Name];
};

/**
 * Options of {@link VllmModel.chat}: ours, and the fields of vLLM's chat completion request under vLLM's names
 * (`max_tokens`, `temperature`, `tools`, `tool_choice`, `chat_template_kwargs`, ...).
 */
export interface ChatOptions<T = never> extends CallOptions, ChatSampling {
  /** Holds the answer to a schema; the result's `object` is the parsed answer. */
  structured?: Structure<T> | undefined;
  tools?: readonly object[] | undefined;
  tool_choice?: "none" | "auto" | "required" | object | undefined;
  [field: string]: unknown;
}

/** An answer. The first choice is spelled out; `response` is vLLM's whole answer. */
export interface ChatResult<T = never> {
  readonly text: string;
  /** The answer as the schema of `structured` says. */
  readonly object: T;
  /** What a reasoning parser took out of the answer. */
  readonly reasoning?: string;
  readonly toolCalls: readonly ToolCall[];
  readonly finishReason: FinishReason;
  readonly usage: Usage;
  /** The assistant's message: append it to the conversation to go on. */
  readonly message: ChatMessage;
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

interface RawUsage {
  prompt_tokens: number;
  completion_tokens?: number | null;
  total_tokens: number;
}

interface RawMessage {
  content?: string | null;
  reasoning?: string | null;
  tool_calls?: { id: string; function: { name: string; arguments: string } }[] | null;
}

interface RawResponse {
  choices: { index: number; message: RawMessage; finish_reason: string }[];
  usage: RawUsage;
}

interface RawChunk {
  choices?: { index: number; delta: RawMessage; finish_reason: string | null }[];
  usage?: RawUsage | null;
  error?: { message: string; code: number };
}

const own = new Set(["lora", "signal", "deadline", "structured"]);

function requestOf(messages: readonly ChatMessage[], options: ChatOptions<unknown>): object {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new InvalidArgumentError("chat takes a list of messages", { hint: '[{ role: "user", content: "..." }]' });
  }
  const fields = Object.fromEntries(
    Object.entries(options).filter(([name, value]) => !own.has(name) && value !== undefined),
  );
  if (options.structured === undefined) return { messages, ...fields };
  const schema = toJsonSchema(options.structured);
  return { messages, response_format: { type: "json_schema", json_schema: { name: "answer", schema } }, ...fields };
}

/** See {@link VllmModel.chat}. */
export async function chat<T>(
  door: Door,
  messages: readonly ChatMessage[],
  options: ChatOptions<T>,
): Promise<ChatResult<T>> {
  const request = requestOf(messages, options);
  const response = await post(door, "chat/completions", request, options);
  const answer = (await response.json().catch((error: unknown) => {
    throw fromFetchFailure(error, options);
  })) as RawResponse;
  const choice = answer.choices[0];
  if (choice === undefined) throw new HttpStatusError(response.status, "vLLM answered without a choice", answer);
  const { message, finish_reason: finishReason } = choice;
  const text = message.content ?? "";
  const object =
    options.structured === undefined ? undefined : await parseStructured(options.structured, text, finishReason);
  const calls = message.tool_calls ?? [];
  return {
    text,
    object: object as T,
    ...(typeof message.reasoning === "string" ? { reasoning: message.reasoning } : {}),
    toolCalls: calls.map((call) => ({ id: call.id, name: call.function.name, arguments: call.function.arguments })),
    finishReason,
    usage: toUsage(answer.usage),
    message: {
      role: "assistant",
      content: message.content ?? null,
      ...(calls.length === 0 ? {} : { tool_calls: calls }),
    },
    response: answer as unknown as Record<string, unknown>,
  };
}

/** See {@link VllmModel.chatStream}. */
export async function* chatStream(
  door: Door,
  messages: readonly ChatMessage[],
  options: ChatOptions<unknown>,
): AsyncGenerator<ChatChunk, void, undefined> {
  const request = { ...requestOf(messages, options), stream: true, stream_options: { include_usage: true } };
  const response = await post(door, "chat/completions", request, options);
  try {
    for await (const data of readEvents(response)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data) as RawChunk;
      if (chunk.error !== undefined) throw new HttpStatusError(chunk.error.code, chunk.error.message, chunk);
      yield* chunksOf(chunk);
    }
  } catch (error) {
    throw fromFetchFailure(error, options);
  }
}

function* chunksOf(chunk: RawChunk): Generator<ChatChunk> {
  for (const { index, delta, finish_reason: finishReason } of chunk.choices ?? []) {
    yield {
      index,
      text: delta.content ?? "",
      ...(typeof delta.reasoning === "string" ? { reasoning: delta.reasoning } : {}),
      ...(delta.tool_calls === undefined || delta.tool_calls === null ? {} : { toolCalls: delta.tool_calls }),
      finishReason,
    };
  }
  if (chunk.usage !== undefined && chunk.usage !== null) {
    yield { index: 0, text: "", finishReason: null, usage: toUsage(chunk.usage) };
  }
}

export function toUsage(raw: RawUsage): Usage {
  return {
    promptTokens: raw.prompt_tokens,
    completionTokens: raw.completion_tokens ?? 0,
    totalTokens: raw.total_tokens,
  };
}
