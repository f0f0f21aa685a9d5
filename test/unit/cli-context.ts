import { PassThrough } from "node:stream";
import type { Context } from "../../src/cli/context";

/** Collects what a command writes. */
export class Collected {
  text = "";
  isTTY?: boolean;
  columns?: number;

  write(text: string): boolean {
    this.text += text;
    return true;
  }
}

/** Surroundings for a command, with nothing of this process's own. */
export function context(
  options: { input?: string; signal?: AbortSignal; environment?: NodeJS.ProcessEnv } = {},
): Context & { stdout: Collected; stderr: Collected } {
  const stdin = new PassThrough();
  stdin.end(options.input ?? "");
  return {
    stdout: new Collected(),
    stderr: new Collected(),
    stdin: stdin as unknown as Context["stdin"],
    environment: options.environment ?? {},
    signal: options.signal ?? new AbortController().signal,
  };
}
