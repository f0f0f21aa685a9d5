import { callback } from "../common/callbacks";

/** Receives the server's log: Triton's own lines, and what its children print. For example `console`. */
export interface Logger {
  /** Triton's verbose lines, vLLM's DEBUG. */
  debug(message: string): void;
  /** Normal events, and all lines without a level. */
  info(message: string): void;
  /** What works, but may not be intended. */
  warn(message: string): void;
  /** What failed. */
  error(message: string): void;
}

type Level = keyof Logger;

const levels: Readonly<Record<string, Level>> = { I: "info", W: "warn", E: "error", F: "error", V: "debug" };

/**
 * Logs a line at its own level. Triton's lines start like glog's: level, month and day, time, thread,
 * `file:line]`, e.g. `I1124 21:52:01.123456 4711 server.cc:604] message`. vLLM's start with the level's name. Everything
 * else is a child's plain output.
 */
export function logTo(logger: Logger, line: string): void {
  if (line === "") return;
  const triton = /^([IWEFV])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ ([^\]]+)\] ?"?(.*?)"?$/.exec(line);
  const level: Level = triton ? (levels[triton[1] as string] ?? "info") : levelOf(line);
  const text = triton ? `${triton[2]} ${triton[3]}` : line;
  // A logger that throws must not stop the responses that are delivered after this line.
  callback(`logger.${level}`, logger, () => logger[level](text));
}

function levelOf(line: string): Level {
  const named = /\b(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)\b/.exec(line.slice(0, 80))?.[1];
  if (named === "DEBUG") return "debug";
  if (named === "WARNING" || named === "WARN") return "warn";
  if (named === "ERROR" || named === "CRITICAL") return "error";
  return "info";
}
