import type { Output } from "./terminal";

/** What a command uses of its process. It is passed explicitly, so that a test can replace it. */
export interface Context {
  stdout: Output;
  stderr: Output;
  stdin: NodeJS.ReadStream;
  environment: NodeJS.ProcessEnv;
  /**
   * Fires on SIGINT, SIGTERM and SIGHUP (their names are the reason), when nobody reads standard output any more (EPIPE),
   * and with the error where it can't be written.
   */
  signal: AbortSignal;
}

/** Runs a command. Resolves with the exit code. */
export type Run = (args: string[], context: Context) => Promise<number>;
