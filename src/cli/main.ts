#!/usr/bin/env node
import { constants } from "node:os";
import { nearest } from "../common/nearest";
import { InvalidArgumentError } from "../errors";
import type { Command, Context } from "./context";
import { reportError } from "./report-error";

/** Exit code for an invalid command line, as of shells and most programs. */
const USAGE = 2;

/** Loaded when asked for: `--help` and `setup` need nothing of the engine's code. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  setup: async () => (await import("./commands/setup.js")).setupCommand,
  doctor: async () => (await import("./commands/doctor.js")).doctorCommand,
  bundle: async () => (await import("./commands/setup.js")).bundleCommand,
  remove: async () => (await import("./commands/remove.js")).removeCommand,
  build: async () => (await import("./commands/build.js")).buildCommand,
  quantize: async () => (await import("./commands/quantize.js")).quantizeCommand,
  generate: async () => (await import("./commands/generate.js")).generateCommand,
  chat: async () => (await import("./commands/chat.js")).chatCommand,
};

/**
 * Runs one command line.
 *
 * @param args the words after the program's name.
 * @returns the exit code: 0, 1 for a failure, 2 for an invalid command line, 128 + n for signal n.
 */
export async function main(args: readonly string[], context: Context): Promise<number> {
  try {
    const [name, ...rest] = args;
    if (name === undefined || name === "--help" || name === "-h" || name === "help") {
      const command = name === "help" && rest[0] !== undefined ? await find(rest[0]) : undefined;
      (name === undefined ? context.stderr : context.stdout).write(command?.help ?? (await overview()));
      return name === undefined ? USAGE : 0;
    }
    if (name === "--version" || name === "-V") {
      const { packageVersion } = await import("../runtime/find/paths.js");
      context.stdout.write(`${packageVersion()}\n`);
      return 0;
    }
    const command = await find(name);
    const end = rest.indexOf("--");
    if (rest.slice(0, end < 0 ? undefined : end).some((word) => word === "--help" || word === "-h")) {
      context.stdout.write(command.help);
      return 0;
    }
    return await command.run(rest, context);
  } catch (error) {
    if (context.signal.aborted) {
      context.stderr.write("interrupted\n");
      return exitCodeOf(context.signal.reason);
    }
    reportError(error, context);
    return error instanceof InvalidArgumentError ? USAGE : 1;
  }
}

async function find(name: string): Promise<Command> {
  const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (load !== undefined) return load();
  const near = nearest(name, Object.keys(COMMANDS));
  const what = name.startsWith("-") ? "option" : "command";
  throw new InvalidArgumentError(`unknown ${what} ${JSON.stringify(name)}`, {
    hint: near === undefined ? "run: tritonode --help" : `did you mean ${near}?`,
  });
}

async function overview(): Promise<string> {
  const commands = await Promise.all(Object.values(COMMANDS).map((load) => load()));
  const lines = commands.map(({ name, summary }) => `  ${name.padEnd(10)} ${summary}`);
  return `Usage: tritonode COMMAND [options]

NVIDIA Triton and vLLM inside this process: models with many LoRA adapters, no server.

Commands:
${lines.join("\n")}

  tritonode COMMAND --help   says what a command takes
  tritonode --version
`;
}

function exitCodeOf(reason: unknown): number {
  const number = typeof reason === "string" ? constants.signals[reason as NodeJS.Signals] : undefined;
  return number === undefined ? 1 : 128 + number;
}

/** The process's own signals end a command in good order; a second one ends it at once. */
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

if (require.main === module) {
  const controller = new AbortController();
  watchSignals(controller);
  // `tritonode --help | head` is no failure
  process.stdout.on("error", (error: NodeJS.ErrnoException) => {
    if (error.code === "EPIPE") process.exit(0);
    throw error;
  });
  const { stdout, stderr, stdin, env: environment } = process;
  // the program ends when its command does, not when nothing happens to keep the event loop alive in between
  const alive = setInterval(() => {}, 2 ** 30);
  void main(process.argv.slice(2), { stdout, stderr, stdin, environment, signal: controller.signal }).then((code) => {
    clearInterval(alive);
    process.exitCode = code;
  });
}
