import type { LanguageModelV3StreamPart, SharedV3Warning } from "@ai-sdk/provider";
import type { ChatChunk, ChatStream } from "../model/openai";
import { toFinishReason, toToolCall, toUsage } from "./results";

interface StreamDetails {
  readonly warnings: SharedV3Warning[];
  readonly modelId: string;
  readonly signal: AbortSignal | undefined;
}

/** A piece of a tool call, in OpenAI's form. */
interface CallPiece {
  readonly index?: number;
  readonly id?: string;
  readonly function?: { readonly name?: string; readonly arguments?: string };
}

/** A streamed answer as the AI SDK's parts. Cancelling it cancels the request. */
export function toParts(chat: ChatStream, details: StreamDetails): ReadableStream<LanguageModelV3StreamPart> {
  const parts = convert(chat, details);
  return new ReadableStream<LanguageModelV3StreamPart>(
    {
      async pull(controller) {
        const { done, value } = await parts.next();
        if (done) controller.close();
        else controller.enqueue(value);
      },
      async cancel() {
        await chat.return();
        await parts.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
}

async function* convert(
  chat: ChatStream,
  { warnings, modelId, signal }: StreamDetails,
): AsyncGenerator<LanguageModelV3StreamPart, void, undefined> {
  yield { type: "stream-start", warnings };
  yield { type: "response-metadata", modelId, timestamp: new Date() };
  const blocks = new Blocks();
  try {
    for await (const chunk of chat) yield* blocks.add(chunk);
    const { toolCalls, finishReason, usage } = await chat.final();
    yield* blocks.close();
    for (const call of toolCalls) yield toToolCall(call);
    yield { type: "finish", finishReason: toFinishReason(finishReason, toolCalls.length), usage: toUsage(usage) };
  } catch (error) {
    // The SDK knows an abort by the signal's own reason.
    if (signal?.aborted) throw signal.reason;
    yield* blocks.close();
    yield { type: "error", error };
    const none = { promptTokens: 0, completionTokens: 0, totalTokens: 0 };
    yield { type: "finish", finishReason: { unified: "error", raw: undefined }, usage: toUsage(none) };
  }
}

/** The SDK wants the beginning and the end of each text, reasoning and tool call. */
class Blocks {
  #open: { type: "text" | "reasoning"; id: string } | undefined;
  #count = 0;
  /** The calls that have begun, by their index. */
  readonly #calls = new Map<number, string>();

  *add({ index, text, reasoning, toolCalls }: ChatChunk): Generator<LanguageModelV3StreamPart> {
    if (index !== 0) return;
    if (reasoning !== undefined && reasoning !== "") yield* this.#piece("reasoning", reasoning);
    if (text !== "") yield* this.#piece("text", text);
    for (const piece of (toolCalls ?? []) as CallPiece[]) yield* this.#call(piece);
  }

  *close(): Generator<LanguageModelV3StreamPart> {
    yield* this.#closeText();
    for (const id of this.#calls.values()) yield { type: "tool-input-end", id };
    this.#calls.clear();
  }

  *#piece(type: "text" | "reasoning", delta: string): Generator<LanguageModelV3StreamPart> {
    if (this.#open?.type !== type) {
      yield* this.#closeText();
      this.#open = { type, id: String(this.#count++) };
      yield { type: `${type}-start`, id: this.#open.id };
    }
    yield { type: `${type}-delta`, id: this.#open.id, delta };
  }

  *#closeText(): Generator<LanguageModelV3StreamPart> {
    if (this.#open !== undefined) yield { type: `${this.#open.type}-end`, id: this.#open.id };
    this.#open = undefined;
  }

  *#call({ index = 0, id, function: called }: CallPiece): Generator<LanguageModelV3StreamPart> {
    let begun = this.#calls.get(index);
    if (begun === undefined) {
      yield* this.#closeText();
      begun = id ?? `call-${index}`;
      this.#calls.set(index, begun);
      yield { type: "tool-input-start", id: begun, toolName: called?.name ?? "" };
    }
    if (called?.arguments) yield { type: "tool-input-delta", id: begun, delta: called.arguments };
  }
}
