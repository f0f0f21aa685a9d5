export { ChatStream } from "./chat";
export type {
  ChatAnswer,
  ChatChunk,
  ChatMessage,
  ChatOptions,
  ChatResult,
  StructuredAnswer,
  ToolCall,
} from "./chat-types";
export type { EmbedOptions, EmbedResult } from "./embed";
export { HttpStatusError, StructuredOutputError } from "./errors";
export type { JsonSchema, StandardSchema, Structure } from "./schema";
export type { TokenizeOptions, TokenizeResult } from "./tokenize";
