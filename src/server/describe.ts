import { inspect } from "node:util";

/** Any value as text for a message; unlike String and JSON.stringify it takes whatever a caller may have passed. */
export function describe(value: unknown): string {
  const text = inspect(value, { depth: 1, customInspect: false, breakLength: Number.POSITIVE_INFINITY });
  return text.length > 200 ? `${text.slice(0, 200)}…` : text;
}
