export { ChatStream } from "./chat";
export type {
  ChatAnswer,
  ChatChunk,
  ChatContentPart,
  ChatMessage,
  ChatMessageLike,
  ChatOptions,
  ChatResult,
  StructuredAnswer,
  ToolCall,
} from "./chat-types";
export type { EmbedResult } from "./embed";
export { HttpStatusError, StructuredOutputError } from "./errors";
export type { EmbedOptions, TokenizeOptions } from "./request-types";
export type { JsonSchema, StandardSchema, Structure } from "./schema";
export type { TokenizeResult } from "./tokenize";
export {
  type ChatTool,
  type RunToolsOptions,
  type ToolContext,
  ToolError,
  type ToolResult,
  type ToolRun,
  type ToolStep,
} from "./tools";
