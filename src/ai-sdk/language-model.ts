import type {
  LanguageModelV3,
  LanguageModelV3CallOptions,
  LanguageModelV3Content,
  SharedV3Warning,
} from "@ai-sdk/provider";
import type { VllmModel } from "../model";
import type { ChatMessage, ChatOptions, ToolCall } from "../model/openai";
import { toChatMessages } from "./messages";
import type { Chosen } from "./model-id";
import { toFinishReason, toToolCall, toUsage } from "./results";
import { toParts } from "./stream";

/** A language model of the AI SDK over {@link VllmModel.chat}. */
export function createLanguageModel(
  model: VllmModel,
  chosen: Chosen,
  provider: string,
  defaults: Partial<ChatOptions<undefined>>,
): LanguageModelV3 {
  const request = (options: LanguageModelV3CallOptions) => toRequest(options, chosen, provider, defaults);
  return {
    specificationVersion: "v3",
    provider,
    modelId: chosen.id,
    // The SDK fetches what a URL names: the engine opens no connection.
    supportedUrls: {},
    async doGenerate(options) {
      const { messages, chat, warnings } = request(options);
      const answer = await model.chat(messages, chat).catch((error: unknown) => {
        // The SDK knows an abort by the signal's own reason.
        throw options.abortSignal?.aborted ? options.abortSignal.reason : error;
      });
      return {
        content: toContent(answer),
        finishReason: toFinishReason(answer.finishReason, answer.toolCalls.length),
        usage: toUsage(answer.usage),
        request: { body: { messages, ...chat.extra } },
        response: { modelId: chosen.id, timestamp: new Date(), body: answer.response },
        warnings,
      };
    },
    async doStream(options) {
      const { messages, chat, warnings } = request(options);
      const stream = model.chatStream(messages, chat);
      return {
        stream: toParts(stream, { warnings, modelId: chosen.id, signal: options.abortSignal }),
        request: { body: { messages, ...chat.extra } },
      };
    },
  };
}

function toRequest(
  options: LanguageModelV3CallOptions,
  { lora }: Chosen,
  provider: string,
  defaults: Partial<ChatOptions<undefined>>,
): { messages: ChatMessage[]; chat: ChatOptions<undefined>; warnings: SharedV3Warning[] } {
  const warnings: SharedV3Warning[] = [];
  const tools: object[] = [];
  for (const tool of options.tools ?? []) {
    if (tool.type !== "function") {
      warnings.push({ type: "unsupported", feature: `the provider's tool ${tool.id}` });
      continue;
    }
    const { name, description, inputSchema: parameters, strict } = tool;
    tools.push({ type: "function", function: defined({ name, description, parameters, strict }) });
  }
  const fields = defined({
    max_tokens: options.maxOutputTokens,
    temperature: options.temperature,
    top_p: options.topP,
    top_k: options.topK,
    presence_penalty: options.presencePenalty,
    frequency_penalty: options.frequencyPenalty,
    seed: options.seed,
    stop: options.stopSequences,
    response_format: toResponseFormat(options.responseFormat),
    ...(tools.length === 0 ? {} : { tools, tool_choice: toToolChoice(options.toolChoice) }),
  });
  const { extra, ...rest } = defaults;
  const own = options.providerOptions?.[provider] ?? {};
  // Those of the call count most. They all go into `extra`, where vLLM checks them.
  const chat = { lora, signal: options.abortSignal, extra: { ...rest, ...extra, ...fields, ...own } };
  return { messages: toChatMessages(options.prompt), chat, warnings };
}

function toResponseFormat(format: LanguageModelV3CallOptions["responseFormat"]): object | undefined {
  if (format?.type !== "json") return undefined;
  const { schema, name = "answer", description } = format;
  if (schema === undefined) return { type: "json_object" };
  return { type: "json_schema", json_schema: defined({ name, description, schema, strict: true }) };
}

function toToolChoice(choice: LanguageModelV3CallOptions["toolChoice"]): string | object {
  if (choice?.type === "tool") return { type: "function", function: { name: choice.toolName } };
  return choice?.type ?? "auto";
}

function toContent(answer: {
  text: string;
  reasoning?: string;
  toolCalls: readonly ToolCall[];
}): LanguageModelV3Content[] {
  const content: LanguageModelV3Content[] = [];
  if (answer.reasoning !== undefined && answer.reasoning !== "")
    content.push({ type: "reasoning", text: answer.reasoning });
  if (answer.text !== "") content.push({ type: "text", text: answer.text });
  for (const call of answer.toolCalls) content.push(toToolCall(call));
  return content;
}

/** The object without the fields that are undefined. */
function defined(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
