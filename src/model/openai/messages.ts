import { describe } from "../../common/describe";
import { InvalidArgumentError } from "../../errors";
import type { ChatMessage } from "./chat-types";

/**
 * Converts messages for vLLM: images that are given as bytes or base64 text (`{ type: "image", image }`) become data URLs in
 * OpenAI's format; everything else is unchanged.
 *
 * @throws {@link InvalidArgumentError} if it is not a list of messages, or naming an invalid message or image.
 */
export function toMessages(messages: unknown): readonly ChatMessage[] {
  if (!Array.isArray(messages) || messages.length === 0) {
    throw new InvalidArgumentError(
      `chat takes a list of messages, got ${Array.isArray(messages) ? "an empty one" : describe(messages)}`,
      {
        hint: '[{ role: "user", content: "..." }]',
      },
    );
  }
  return messages.map((message: unknown, at) => {
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      throw new InvalidArgumentError(`messages[${at}] must be an object, got ${describe(message)}`, {
        hint: '{ role: "user", content: "..." }',
      });
    }
    const { content } = message as ChatMessage;
    if (!Array.isArray(content) || !content.some(isImage)) return message as ChatMessage;
    const parts = content.map((part, index) =>
      isImage(part) ? toImageUrl(part, `messages[${at}].content[${index}]`) : part,
    );
    return { ...(message as ChatMessage), content: parts };
  });
}

function isImage(part: unknown): part is { type: "image"; image: unknown } {
  return typeof part === "object" && part !== null && (part as { type?: unknown }).type === "image";
}

function toImageUrl({ image, ...rest }: { type: "image"; image: unknown }, where: string) {
  const bytes = image instanceof Uint8Array ? image : undefined;
  if (bytes === undefined && (typeof image !== "string" || image === "")) {
    throw new InvalidArgumentError(`${where}.image must be bytes, base64 text or a data URL, got ${describe(image)}`);
  }
  const base64 =
    bytes === undefined
      ? (image as string)
      : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
  const url = /^[a-z]+:/.test(base64) ? base64 : `data:${typeOf(base64)};base64,${base64}`;
  return { ...rest, type: "image_url", image_url: { url } };
}

/** Finds the media type from the first bytes; vLLM's image reader checks them itself. */
function typeOf(base64: string): string {
  const head = Buffer.from(base64.slice(0, 16), "base64").toString("latin1");
  if (head.startsWith("\xff\xd8")) return "image/jpeg";
  if (head.startsWith("GIF8")) return "image/gif";
  if (head.startsWith("RIFF")) return "image/webp";
  return "image/png";
}
