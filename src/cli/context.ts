import type { Output } from "./terminal";

/** What a command uses of its process. It is passed explicitly, so that a test can replace it. */
export interface Context {
  stdout: Output;
  stderr: Output;
  stdin: NodeJS.ReadStream;
  environment: NodeJS.ProcessEnv;
  /**
   * Fires on SIGINT, SIGTERM and SIGHUP (the reason is the signal's name), when the reader of standard output has closed it
   * (EPIPE), and with the error if standard output can't be written.
   */
  signal: AbortSignal;
}

/** Runs a command. Resolves with the exit code. */
export type Run = (args: string[], context: Context) => Promise<number>;
