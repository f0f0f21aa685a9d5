#!/usr/bin/env node
import { constants } from "node:os";
import { nearest } from "../common/nearest";
import { InvalidArgumentError } from "../errors";
import type { Context, Run } from "./context";
import { helpText } from "./help";
import { errorJson, reportError } from "./report-error";
import type { CommandSpec } from "./spec";
import { type CommandName, commands } from "./table";

/** Exit code for an invalid command line, the same as that of shells and most programs. */
const USAGE = 2;

/** The commands' modules are loaded when they run, because `--help` and `setup` do not need the engine's code. */
const RUNS: Readonly<Record<CommandName, () => Promise<Run>>> = {
  setup: async () => (await import("./commands/setup.js")).run,
  doctor: async () => (await import("./commands/doctor.js")).run,
  chat: async () => (await import("./commands/chat.js")).run,
  run: async () => (await import("./commands/run.js")).run,
  info: async () => (await import("./commands/info.js")).run,
  adapters: async () => (await import("./commands/adapters.js")).run,
  inspect: async () => (await import("./commands/inspect.js")).run,
  quantize: async () => (await import("./commands/quantize.js")).run,
  generate: async () => (await import("./commands/generate.js")).run,
  bundle: async () => (await import("./commands/bundle.js")).run,
  remove: async () => (await import("./commands/remove.js")).run,
  build: async () => (await import("./commands/build.js")).run,
  completion: async () => (await import("./commands/completion.js")).run,
};

/**
 * Runs one command line.
 *
 * @param args - the arguments after the program's name
 * @returns the exit code: 0, 1 for a failure, 2 for an invalid command line, 128 + n for signal n.
 */
export async function main(args: readonly string[], context: Context): Promise<number> {
  const [name, ...rest] = args;
  const own = rest.slice(0, rest.includes("--") ? rest.indexOf("--") : undefined);
  try {
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      const about = name === "help" ? rest.find((argument) => !argument.startsWith("-")) : undefined;
      const text = about === undefined ? overview() : helpText(find(about));
      (name === undefined ? context.stderr : context.stdout).write(text);
      return name === undefined ? USAGE : 0;
    }
    if (name === "--version" || name === "-V") {
      const { packageVersion } = await import("../runtime/find/paths.js");
      context.stdout.write(`${packageVersion()}\n`);
      return 0;
    }
    const command = find(name);
    if (own.some((argument) => argument === "--help" || argument === "-h")) {
      context.stdout.write(helpText(command));
      return 0;
    }
    const run = await RUNS[command.name]();
    return await run(rest, context);
  } catch (error) {
    // `tritonode ... | head` is not a failure
    if (context.signal.reason === "EPIPE") return 0;
    if (own.includes("--json")) context.stdout.write(`${JSON.stringify(errorJson(error))}\n`);
    if (context.signal.aborted) {
      if (typeof context.signal.reason === "string") context.stderr.write("interrupted\n");
      return exitCodeOf(context.signal.reason);
    }
    reportError(error, context);
    return error instanceof InvalidArgumentError ? USAGE : 1;
  }
}

function find(name: string): CommandSpec & { readonly name: CommandName } {
  const found = commands.find((command) => command.name === name);
  if (found !== undefined) return found;
  const option = name.startsWith("-");
  const near = nearest(name, option ? ["--help", "--version"] : commands.map((command) => command.name));
  throw new InvalidArgumentError(option ? `unknown option ${name}` : `unknown command ${JSON.stringify(name)}`, {
    hint: near === undefined ? "run: tritonode --help" : `did you mean ${near}? Otherwise run: tritonode --help`,
  });
}

function overview(): string {
  const lines = commands.map(({ name, summary }) => `  ${name.padEnd(11)} ${summary}`);
  return `Usage: tritonode COMMAND [options]

NVIDIA Triton and vLLM inside this process: models with many LoRA adapters, no server.

Commands:
${lines.join("\n")}

  tritonode help COMMAND   says what a command takes
  tritonode --version
`;
}

function exitCodeOf(reason: unknown): number {
  const number = typeof reason === "string" ? constants.signals[reason as NodeJS.Signals] : undefined;
  return number === undefined ? 1 : 128 + number;
}

/** A signal ends a command cleanly; a second one ends it at once. */
function watchSignals(controller: AbortController): void {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (controller.signal.aborted) process.exit(exitCodeOf(signal));
      // Triton can't cancel a load: the model is unloaded when its load has ended, so this may take as long as the load
      process.stderr.write("\nstopping; once more to leave at once\n");
      controller.abort(signal);
    });
  }
}

/** A closed pipe or a full disk also ends a command cleanly: a loaded model is unloaded. */
function watchPipes(controller: AbortController): void {
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (controller.signal.aborted) return;
    if (error.code !== "EPIPE") process.stderr.write(`error: standard output can't be written: ${error.message}\n`);
    controller.abort(error.code === "EPIPE" ? "EPIPE" : error);
  });
  // Notes are lost if their reader has closed the pipe.
  process.stderr.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code !== "EPIPE") throw error;
  });
}

if (require.main === module) {
  const controller = new AbortController();
  watchSignals(controller);
  watchPipes(controller);
  const { stdout, stderr, stdin, env: environment } = process;
  // the program must end when its command ends, even if nothing keeps the event loop alive in between
  const alive = setInterval(() => {}, 2 ** 30);
  void main(process.argv.slice(2), { stdout, stderr, stdin, environment, signal: controller.signal }).then((code) => {
    clearInterval(alive);
    process.exitCode = controller.signal.reason instanceof Error ? 1 : code;
    // A terminal or an open pipe on standard input would keep the process alive.
    stdin.destroy();
  });
}
