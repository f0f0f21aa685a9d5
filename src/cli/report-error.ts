import { TritonodeError } from "../errors";
import type { Context } from "./context";
import { styler } from "./terminal";

/** Prints an error's message, hint and code. The stack is printed only with TRITONODE_DEBUG, or for a bug of this package. */
export function reportError(error: unknown, context: Pick<Context, "stderr" | "environment">): void {
  const { stderr, environment } = context;
  const style = styler(stderr, environment);
  if (!(error instanceof Error)) {
    stderr.write(`${style("red", "error")}: ${String(error)}\n`);
    return;
  }
  stderr.write(`${style("red", "error")}: ${error.message}\n`);
  const known = error instanceof TritonodeError;
  if (known && error.hint !== undefined) stderr.write(`${style("cyan", "hint")}:  ${error.hint}\n`);
  if (known) stderr.write(`${style("dim", `code:  ${error.code}, ${error.docs}`)}\n`);
  // A file that can't be read or written is not a bug: the system's message names the file.
  const system = (error as NodeJS.ErrnoException).syscall !== undefined;
  if (!(known || system) || environment.TRITONODE_DEBUG) {
    for (let cause: unknown = error; cause instanceof Error; cause = cause.cause) {
      stderr.write(`${style("dim", cause.stack ?? cause.message)}\n`);
    }
  }
}

/** An error as --json prints it. */
export function errorJson(error: unknown): { event: "error"; code: string; message: string; hint?: string } {
  return { event: "error", ...errorFields(error) };
}

/** The fields of an error for programs. */
export function errorFields(error: unknown): { code: string; message: string; hint?: string } {
  const { code, message, hint } = error as Partial<TritonodeError>;
  return {
    code: typeof code === "string" ? code : "ERR_INTERNAL",
    message: message ?? String(error),
    ...(hint === undefined ? {} : { hint }),
  };
}
