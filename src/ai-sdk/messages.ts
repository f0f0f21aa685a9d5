import type { LanguageModelV3Prompt } from "@ai-sdk/provider";
import { InvalidArgumentError } from "../errors";
import type { ChatContentPart, ChatMessage } from "../model/openai";

/** The AI SDK's prompt as messages in OpenAI's form. @throws {@link InvalidArgumentError} for files that vLLM does not take. */
export function toChatMessages(prompt: LanguageModelV3Prompt): ChatMessage[] {
  return prompt.flatMap(toMessages);
}

function toMessages(message: LanguageModelV3Prompt[number]): ChatMessage[] {
  switch (message.role) {
    case "system":
      return [{ role: "system", content: message.content }];
    case "user": {
      const parts = message.content.map((part) =>
        part.type === "text" ? { type: "text", text: part.text } : file(part),
      );
      // A plain text where it is one: some chat templates know no lists of parts.
      const texts = parts.map((part) => (part.type === "text" ? String(part["text"]) : undefined));
      const plain = texts.every((text) => text !== undefined);
      return [{ role: "user", content: plain ? texts.join("") : parts }];
    }
    case "assistant":
      return [assistant(message.content)];
    case "tool":
      return message.content.flatMap((part) =>
        part.type === "tool-result"
          ? [{ role: "tool", tool_call_id: part.toolCallId, content: resultText(part.output) }]
          : [],
      );
  }
}

type Content<Role extends LanguageModelV3Prompt[number]["role"]> = Extract<
  LanguageModelV3Prompt[number],
  { role: Role }
>["content"];
type FilePart = Extract<Content<"user">[number], { type: "file" }>;
type ToolOutput = Extract<Content<"tool">[number], { type: "tool-result" }>["output"];

function assistant(content: Content<"assistant">): ChatMessage {
  let text = "";
  let reasoning = "";
  const calls: object[] = [];
  for (const part of content) {
    if (part.type === "text") text += part.text;
    else if (part.type === "reasoning") reasoning += part.text;
    else if (part.type === "tool-call") {
      const called = { name: part.toolName, arguments: JSON.stringify(part.input ?? {}) };
      calls.push({ id: part.toolCallId, type: "function", function: called });
    } else if (part.type === "file") {
      throw new InvalidArgumentError(`an assistant's message holds a file (${part.mediaType}): vLLM takes none there`);
    }
  }
  return {
    role: "assistant",
    content: text === "" && calls.length > 0 ? null : text,
    ...(reasoning === "" ? {} : { reasoning }),
    ...(calls.length === 0 ? {} : { tool_calls: calls }),
  };
}

function file({ mediaType, data }: FilePart): ChatContentPart {
  const [kind, format = ""] = mediaType.split("/");
  const base64 = data instanceof Uint8Array ? Buffer.from(data).toString("base64") : String(data);
  if (kind === "image") {
    const type = format === "*" ? "image/png" : mediaType;
    const url = /^(https?|data):/.test(base64) ? base64 : `data:${type};base64,${base64}`;
    return { type: "image_url", image_url: { url } };
  }
  if (kind === "audio") {
    return { type: "input_audio", input_audio: { data: base64, format: format === "mpeg" ? "mp3" : format } };
  }
  throw new InvalidArgumentError(`a file of the type ${mediaType} cannot be sent to the model`, {
    hint: "images and audio can, where the model takes them",
  });
}

function resultText(output: ToolOutput): string {
  switch (output.type) {
    case "text":
    case "error-text":
      return output.value;
    case "execution-denied":
      return output.reason ?? "The call was denied.";
    default:
      return JSON.stringify(output.value);
  }
}
