import { readFileSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { InvalidArgumentError } from "../../errors";
import type { ChatMessage } from "../../model/openai";

/** The messages of a conversation, the adapter that answers, and the system message. */
export class Conversation {
  system: string | undefined;
  lora: string | undefined;
  turns: ChatMessage[] = [];

  /** The messages to send with a question. */
  with(question: string): ChatMessage[] {
    return [...this.messages(), { role: "user", content: question }];
  }

  messages(): ChatMessage[] {
    return this.system === undefined ? this.turns : [{ role: "system", content: this.system }, ...this.turns];
  }

  add(question: string, answer: string): void {
    this.turns.push({ role: "user", content: question }, { role: "assistant", content: answer });
  }

  /**
   * Writes the conversation to a file. An existing file is overwritten only if it is a conversation.
   *
   * @returns the file's path
   * @throws {@link InvalidArgumentError}
   */
  save(file: string): string {
    const path = toPath(file);
    let existing: string | undefined;
    try {
      existing = readFileSync(path, "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw unusable("written", path, error);
    }
    if (existing !== undefined && existing.trim() !== "") parse(existing, path, "name another file: this one is kept");
    const content = { lora: this.lora ?? null, messages: this.messages() };
    try {
      writeFileSync(path, `${JSON.stringify(content, undefined, 2)}\n`);
    } catch (error) {
      throw unusable("written", path, error);
    }
    return path;
  }

  /**
   * Reads a conversation that {@link Conversation.save} wrote, or a list of messages.
   *
   * @throws {@link InvalidArgumentError}
   */
  static load(file: string): Conversation {
    const path = toPath(file);
    let text: string;
    try {
      text = readFileSync(path, "utf8");
    } catch (error) {
      throw unusable("read", path, error);
    }
    const { lora, messages } = parse(text, path, "name a file that /save wrote");
    const [first, ...rest] = messages;
    const conversation = new Conversation();
    conversation.lora = lora;
    if (first?.role === "system" && typeof first.content === "string") {
      conversation.system = first.content;
      conversation.turns = rest;
    } else {
      conversation.turns = messages;
    }
    return conversation;
  }
}

function parse(text: string, path: string, hint: string): { lora: string | undefined; messages: ChatMessage[] } {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new InvalidArgumentError(`${path} is not a conversation: it is not JSON`, { hint, cause });
  }
  const { lora, messages } = (Array.isArray(value) ? { messages: value } : (value ?? {})) as Record<string, unknown>;
  const isMessage = (each: unknown) => typeof (each as ChatMessage | null)?.role === "string";
  if (!Array.isArray(messages) || !messages.every(isMessage)) {
    throw new InvalidArgumentError(`${path} is not a conversation: it has no list of messages`, { hint });
  }
  return { lora: typeof lora === "string" ? lora : undefined, messages };
}

function unusable(what: string, path: string, cause: unknown): InvalidArgumentError {
  return new InvalidArgumentError(`${path} can't be ${what}: ${(cause as Error).message}`, { cause });
}

/** Replaces a leading ~ by the home folder, as a shell does. */
function toPath(file: string): string {
  return resolve(/^~(\/|$)/.test(file) ? join(homedir(), file.slice(1)) : file);
}
