import { InvalidArgumentError } from "../../errors";
import type { ChatMessage } from "../../model/openai";

/** A line of a file of prompts. */
export interface Row {
  /** The line's number in the file, from 1. */
  readonly line: number;
  /** Identifies the line's result: the line's own `id`, or else its number. */
  readonly id: string | number;
  /** The line as it was read. */
  readonly input: Readonly<Record<string, unknown>>;
  readonly question: { readonly prompt: string } | { readonly messages: readonly ChatMessage[] };
  /** Undefined if the line has no `lora`; null for the base model. */
  readonly lora: string | null | undefined;
  readonly sampling: Readonly<Record<string, unknown>>;
}

/** A line that can't be used. */
export interface BadRow {
  readonly line: number;
  readonly id: string | number;
  /** The line as it was read: parsed where it is JSON. */
  readonly input: unknown;
  readonly error: InvalidArgumentError;
}

/**
 * Reads a file of prompts, one JSON object a line. Empty lines count as lines and are left out.
 *
 * @throws {@link InvalidArgumentError} for an id that occurs twice, or if no line can be used
 */
export function readRows(text: string, file: string): { rows: Row[]; bad: BadRow[] } {
  const rows: Row[] = [];
  const bad: BadRow[] = [];
  const seen = new Map<string | number, number>();
  for (const [index, raw] of text
    .replace(/^\uFEFF/, "")
    .split("\n")
    .entries()) {
    if (raw.trim() === "") continue;
    const line = index + 1;
    const row = readRow(raw, line);
    const before = seen.get(row.id);
    if (before !== undefined) {
      throw new InvalidArgumentError(`${file}: lines ${before} and ${line} have the same id ${JSON.stringify(row.id)}`);
    }
    seen.set(row.id, line);
    if ("error" in row) bad.push(row);
    else rows.push(row);
  }
  const [first] = bad;
  if (rows.length > 0) return { rows, bad };
  throw new InvalidArgumentError(
    first === undefined ? `${file} holds no prompts` : `${file}, line ${first.line}: ${first.error.message}`,
    { hint: first?.error.hint ?? HINT },
  );
}

const HINT = 'one JSON object a line: {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}';

function readRow(raw: string, line: number): Row | BadRow {
  let input: unknown;
  try {
    input = JSON.parse(raw);
  } catch (cause) {
    const error = new InvalidArgumentError(`not JSON: ${(cause as Error).message}`, { hint: HINT, cause });
    return { line, id: line, input: raw, error };
  }
  const refuse = (message: string, id: string | number = line): BadRow => ({
    line,
    id,
    input,
    error: new InvalidArgumentError(message, { hint: HINT }),
  });
  if (typeof input !== "object" || input === null || Array.isArray(input)) return refuse("not a JSON object");
  const { id = line, prompt, messages, lora, ...sampling } = input as Record<string, unknown>;
  if (typeof id !== "string" && typeof id !== "number") return refuse("its id is neither a text nor a number");
  if (lora !== undefined && lora !== null && (typeof lora !== "string" || lora === "")) {
    return refuse("its lora is neither an adapter's name nor null", id);
  }
  if ((prompt === undefined) === (messages === undefined))
    return refuse("it needs a prompt or messages, one of them", id);
  if (prompt !== undefined && (typeof prompt !== "string" || prompt === ""))
    return refuse("its prompt is not text", id);
  if (messages !== undefined && (!Array.isArray(messages) || messages.length === 0)) {
    return refuse("its messages are not a list", id);
  }
  const question = prompt === undefined ? { messages: messages as ChatMessage[] } : { prompt };
  if ((sampling["n"] ?? 1) !== 1) return refuse("n: a line has one answer; give it several times", id);
  return { line, id, input: input as Row["input"], question, lora, sampling };
}
