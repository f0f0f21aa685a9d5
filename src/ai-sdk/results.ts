import type { LanguageModelV3FinishReason, LanguageModelV3Usage } from "@ai-sdk/provider";
import type { Usage } from "../model";
import type { ToolCall } from "../model/openai";

export function toToolCall({ id, name, arguments: input }: ToolCall) {
  return { type: "tool-call" as const, toolCallId: id, toolName: name, input: input === "" ? "{}" : input };
}

const reasons: Readonly<Record<string, LanguageModelV3FinishReason["unified"]>> = {
  stop: "stop",
  length: "length",
  tool_calls: "tool-calls",
  content_filter: "content-filter",
  error: "error",
};

/** vLLM says "stop" for an answer that is nothing but a call that it was told to make. */
export function toFinishReason(raw: string, calls: number): LanguageModelV3FinishReason {
  const unified = reasons[raw] ?? "other";
  return { unified: unified === "stop" && calls > 0 ? "tool-calls" : unified, raw };
}

export function toUsage({ promptTokens, completionTokens, totalTokens }: Usage): LanguageModelV3Usage {
  return {
    inputTokens: { total: promptTokens, noCache: undefined, cacheRead: undefined, cacheWrite: undefined },
    outputTokens: { total: completionTokens, text: undefined, reasoning: undefined },
    raw: { prompt_tokens: promptTokens, completion_tokens: completionTokens, total_tokens: totalTokens },
  };
}
