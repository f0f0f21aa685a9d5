import { traced, watchWith } from "../diagnostics";
import { type CheckedOptions, checkOptions } from "../options";
import type { Usage } from "../results";
import { CancellableStream, type StreamSource } from "../stream";
import { type OpenAiRoutes, post } from "./call";
import type {
  ChatAnswer,
  ChatChunk,
  ChatMessageLike,
  ChatOptions,
  ChatResult,
  StructuredAnswer,
  ToolCall,
} from "./chat-types";
import { HttpStatusError } from "./errors";
import { chatFields } from "./fields";
import { toMessages } from "./messages";
import { parseStructured, type Structure, toJsonSchema } from "./schema";
import { readEvents } from "./sse";

export interface RawUsage {
  prompt_tokens: number;
  completion_tokens?: number | null;
  total_tokens: number;
}

interface RawToolCall {
  index?: number;
  id?: string;
  function?: { name?: string; arguments?: string };
}

interface RawMessage {
  content?: string | null;
  reasoning?: string | null;
  tool_calls?: RawToolCall[] | null;
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

function requestOf(messages: unknown, structured: Structure | undefined, { fields }: CheckedOptions): object {
  const converted = toMessages(messages);
  if (structured === undefined) return { messages: converted, ...fields };
  const schema = toJsonSchema(structured);
  return {
    messages: converted,
    response_format: { type: "json_schema", json_schema: { name: "answer", schema } },
    ...fields,
  };
}

/** See {@link VllmModel.chat}. */
export async function chat<S extends Structure | undefined>(
  routes: OpenAiRoutes,
  messages: readonly ChatMessageLike[],
  options: ChatOptions<S>,
): Promise<ChatResult<StructuredAnswer<S>>> {
  const checked = checkOptions(options, { call: "chat", ours: ["structured"], fields: chatFields });
  const request = requestOf(messages, options.structured, checked);
  const run = async () => {
    const { status, json } = await post(routes, "chat/completions", request, checked);
    const answer = await json<RawResponse>();
    const choice = answer.choices[0];
    if (choice === undefined) throw new HttpStatusError(status, "vLLM answered without a choice", answer);
    const usage = toUsage(answer.usage);
    return {
      ...(await toAnswer(choice.message, choice.finish_reason, usage, options.structured)),
      response: answer as unknown as Record<string, unknown>,
    };
  };
  return traced(routes.trace("chat", checked, false), run, detailsOf);
}

function detailsOf({ usage, finishReason }: Pick<ChatAnswer, "usage" | "finishReason">) {
  return { usage, finishReasons: [finishReason] };
}

async function toAnswer<S extends Structure | undefined>(
  message: RawMessage,
  finishReason: string,
  usage: Usage,
  structured: S | undefined,
): Promise<ChatAnswer<StructuredAnswer<S>>> {
  const text = message.content ?? "";
  const object = structured === undefined ? undefined : await parseStructured(structured, text, finishReason);
  const calls = message.tool_calls ?? [];
  return {
    text,
    object: object as StructuredAnswer<S>,
    ...(typeof message.reasoning === "string" ? { reasoning: message.reasoning } : {}),
    toolCalls: calls.map(toToolCall),
    finishReason,
    usage,
    message: {
      role: "assistant",
      content: message.content ?? null,
      ...(calls.length === 0 ? {} : { tool_calls: calls }),
    },
  };
}

function toToolCall({ id = "", function: called }: RawToolCall): ToolCall {
  return { id, name: called?.name ?? "", arguments: called?.arguments ?? "" };
}

/** A streamed answer to a conversation. {@link CancellableStream.final} resolves with what {@link VllmModel.chat} resolves with. */
export class ChatStream<T = unknown> extends CancellableStream<ChatChunk, ChatAnswer<T>> {}

/** See {@link VllmModel.chatStream}. */
export function chatStream<S extends Structure | undefined>(
  routes: OpenAiRoutes,
  messages: readonly ChatMessageLike[],
  options: ChatOptions<S>,
): ChatStream<StructuredAnswer<S>> {
  const checked = checkOptions(options, { call: "chat", ours: ["structured"], fields: chatFields });
  const request = {
    ...requestOf(messages, options.structured, checked),
    stream: true,
    // The result has the usage in any case.
    stream_options: { ...options.stream_options, include_usage: true },
  };
  const cancelled = new AbortController();
  const gathered = new GatheredAnswer();
  let events: AsyncGenerator<string, void, undefined> | undefined;
  const begun = routes.trace("chat", checked, true);
  const source: StreamSource<ChatChunk, ChatAnswer<StructuredAnswer<S>>> = {
    async pull() {
      if (events === undefined) {
        const answer = await post(routes, "chat/completions", request, checked, cancelled.signal);
        events = readEvents(answer.body());
      }
      const { done, value: data } = await events.next();
      if (done || data === "[DONE]") return undefined;
      const chunk = JSON.parse(data) as RawChunk;
      if (chunk.error !== undefined) throw new HttpStatusError(chunk.error.code, chunk.error.message, chunk);
      gathered.add(chunk);
      return chunksOf(chunk);
    },
    cancel: () => cancelled.abort(),
    final: () => toAnswer(gathered.message, gathered.finishReason, gathered.usage, options.structured),
  };
  return new ChatStream(source, begun && watchWith(begun, () => detailsOf(gathered)));
}

/** The first choice of a streamed answer so far. */
class GatheredAnswer {
  readonly message: RawMessage = {};
  finishReason = "";
  usage: Usage = { promptTokens: 0, completionTokens: 0, totalTokens: 0 };

  add({ choices, usage }: RawChunk): void {
    if (usage !== undefined && usage !== null) this.usage = toUsage(usage);
    for (const { index, delta, finish_reason: finishReason } of choices ?? []) {
      if (index !== 0) continue;
      if (finishReason !== null) this.finishReason = finishReason;
      const { message } = this;
      if (typeof delta.content === "string") message.content = (message.content ?? "") + delta.content;
      if (typeof delta.reasoning === "string") message.reasoning = (message.reasoning ?? "") + delta.reasoning;
      for (const piece of delta.tool_calls ?? []) this.#addToolCall(piece);
    }
  }

  /** Tool calls come in pieces: first the name, then parts of the arguments. */
  #addToolCall({ index = 0, function: called, ...rest }: RawToolCall): void {
    this.message.tool_calls ??= [];
    const calls = this.message.tool_calls;
    const known = calls[index];
    calls[index] = {
      ...known,
      ...rest,
      function: {
        name: (known?.function?.name ?? "") + (called?.name ?? ""),
        arguments: (known?.function?.arguments ?? "") + (called?.arguments ?? ""),
      },
    };
  }
}

function chunksOf(chunk: RawChunk): ChatChunk[] {
  const chunks: ChatChunk[] = [];
  const usage = chunk.usage === undefined || chunk.usage === null ? {} : { usage: toUsage(chunk.usage) };
  for (const { index, delta, finish_reason: finishReason } of chunk.choices ?? []) {
    chunks.push({
      index,
      text: delta.content ?? "",
      ...(typeof delta.reasoning === "string" ? { reasoning: delta.reasoning } : {}),
      ...(delta.tool_calls === undefined || delta.tool_calls === null ? {} : { toolCalls: delta.tool_calls }),
      finishReason,
      ...usage,
    });
  }
  if (chunks.length === 0 && usage.usage !== undefined)
    chunks.push({ index: 0, text: "", finishReason: null, ...usage });
  return chunks;
}

export function toUsage(raw: RawUsage): Usage {
  return {
    promptTokens: raw.prompt_tokens,
    completionTokens: raw.completion_tokens ?? 0,
    totalTokens: raw.total_tokens,
  };
}
