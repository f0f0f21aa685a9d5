import type { Output } from "./terminal";

/** What a command uses of its process. It is passed explicitly, so that a test can replace it. */
export interface Context {
  stdout: Output;
  stderr: Output;
  stdin: NodeJS.ReadStream;
  environment: NodeJS.ProcessEnv;
  /** Fires on SIGINT, SIGTERM and SIGHUP. */
  signal: AbortSignal;
}

/** A subcommand: its text for --help, and what it does. */
export interface Command {
  name: string;
  /** One line for the list of commands. */
  summary: string;
  /** The whole text of `tritonode NAME --help`. */
  help: string;
  /** @returns the exit code. */
  run(args: string[], context: Context): Promise<number>;
}
