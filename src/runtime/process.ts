import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { SetupCancelledError } from "./errors";

/** How long a child may take to exit after SIGTERM before it gets SIGKILL. */
const KILL_AFTER_MS = 3_000;

/** How many of the last characters of a child's output are kept for error messages. */
const TAIL_LENGTH = 64 * 1024;

export interface RunOptions {
  environment?: NodeJS.ProcessEnv;
  cwd?: string;
  signal?: AbortSignal | undefined;
  /** Milliseconds after which the child is killed and `timedOut` is set. */
  timeout?: number;
  /** Called with each full line of stdout and stderr, without its line end. */
  onLine?: (line: string, stream: "stdout" | "stderr") => void;
  /** Called with the child's pid as soon as it runs. */
  onSpawn?: (pid: number) => void;
}

export interface RunResult {
  /** Exit code; null if a signal ended it. */
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
  timedOut: boolean;
}

/**
 * Runs a program until it exits, in its own process group, so that aborting also ends what the program has started.
 *
 * @throws {@link SetupCancelledError} when `signal` fires, after the whole group is gone; a system error (ENOENT, EACCES)
 *   when the program can't be started. A bad exit code is not an error here.
 */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const { signal } = options;
  if (signal?.aborted) return Promise.reject(new SetupCancelledError(signal.reason));
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      env: options.environment ?? process.env,
      cwd: options.cwd,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
    });
    let timedOut = false;
    let killTimer: NodeJS.Timeout | undefined;
    const end = () => {
      killGroup(child.pid, "SIGTERM");
      killTimer ??= setTimeout(() => killGroup(child.pid, "SIGKILL"), KILL_AFTER_MS);
    };
    // covers process.exit() and an uncaught throw: the installer must not continue without the process that watches it
    const onExit = () => killGroup(child.pid, "SIGKILL");
    process.once("exit", onExit);
    signal?.addEventListener("abort", end, { once: true });
    const timeout = options.timeout === undefined ? undefined : setTimeout(onTimeout, options.timeout);
    function onTimeout() {
      timedOut = true;
      end();
    }
    const settle = () => {
      clearTimeout(timeout);
      clearTimeout(killTimer);
      process.removeListener("exit", onExit);
      signal?.removeEventListener("abort", end);
    };
    const output = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"] as const) {
      let rest = "";
      child[name].setEncoding("utf8");
      child[name].on("data", (text: string) => {
        output[name] = (output[name] + text).slice(-TAIL_LENGTH);
        if (options.onLine === undefined) return;
        // pip rewrites its lines with \r on some paths
        const parts = (rest + text).split(/\r\n|\n|\r/);
        rest = parts.pop() ?? "";
        for (const line of parts) options.onLine(line, name);
      });
      child[name].on("end", () => {
        if (rest !== "") options.onLine?.(rest, name);
      });
    }
    child.on("spawn", () => {
      if (child.pid !== undefined) options.onSpawn?.(child.pid);
    });
    child.on("error", (error) => {
      settle();
      reject(error);
    });
    child.on("close", (code, endSignal) => {
      settle();
      if (signal?.aborted) reject(new SetupCancelledError(signal.reason));
      else resolve({ code, signal: endSignal, ...output, timedOut });
    });
  });
}

/** Signals a whole process group. A group that is gone already is not an error. */
export function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // ESRCH: it exited between the check and the call
  }
}

/**
 * When a process started, in clock ticks since boot (field 22 of /proc/PID/stat, proc_pid_stat(5)); with the pid it names
 * one process unambiguously, although pids are reused. Undefined if there is no such process (or it is a zombie).
 */
export function startTime(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    // the command name in field 2 may hold spaces and parentheses: count from behind its last one
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return fields[0] === "Z" || fields[0] === "X" ? undefined : fields[19];
  } catch {
    return undefined;
  }
}
