export type { CallOptions } from "./call";
export type { ChatChunk, ChatMessage, ChatOptions, ChatResult, ToolCall } from "./chat";
export type { EmbedOptions, EmbedResult } from "./embed";
export { HttpStatusError, StructuredOutputError } from "./errors";
export type { JsonSchema, StandardSchema, Structure } from "./schema";
export type { TokenizeOptions, TokenizeResult } from "./tokenize";
