import { appendFileSync, chmodSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";

/** Lines that are kept. The file holds at most twice as many. */
export const HISTORY_LINES = 500;
/** A longer line, usually a pasted text, is not kept. */
const MOST_CHARACTERS = 2_000;

const FILE_VARIABLE = "TRITONODE_CHAT_HISTORY";

/** The history's file; undefined if the user has turned it off with an empty $TRITONODE_CHAT_HISTORY. */
export function historyFile(environment: NodeJS.ProcessEnv): string | undefined {
  const { [FILE_VARIABLE]: named, XDG_STATE_HOME: state, HOME: home } = environment;
  if (named !== undefined) return named === "" ? undefined : named;
  return join(state || join(home || homedir(), ".local", "state"), "tritonode", "chat_history");
}

/**
 * The lines that were typed at the prompt of `chat`, kept from one session to the next, in a file that only the user can read.
 * A line that begins with a space is not kept, as in shells.
 */
export class History {
  readonly #file: string;
  readonly #warn: (text: string) => void;
  #usable = true;

  /** @param warn - called once if the file can't be used; the session continues without it */
  constructor(file: string, warn: (text: string) => void) {
    this.#file = file;
    this.#warn = warn;
  }

  /** The kept lines, the newest first, as node:readline takes them. */
  lines(): string[] {
    let lines: string[] = [];
    this.#use(() => {
      const { size } = statSync(this.#file, { throwIfNoEntry: false }) ?? { size: 0 };
      if (size === 0) return;
      chmodSync(this.#file, 0o600);
      lines = readFileSync(this.#file, "utf8")
        .split("\n")
        .filter((line) => line !== "");
      if (lines.length >= 2 * HISTORY_LINES) this.#rewrite(lines.slice(-HISTORY_LINES));
    });
    return lines.slice(-HISTORY_LINES).reverse();
  }

  /** Keeps a line. Two sessions at a time each add theirs. */
  add(line: string): void {
    if (line.trim() === "" || line.startsWith(" ") || line.length > MOST_CHARACTERS) return;
    this.#use(() => {
      mkdirSync(dirname(this.#file), { recursive: true, mode: 0o700 });
      appendFileSync(this.#file, `${line}\n`, { mode: 0o600 });
    });
  }

  #rewrite(lines: readonly string[]): void {
    const temporary = `${this.#file}.${process.pid}`;
    writeFileSync(temporary, lines.map((line) => `${line}\n`).join(""), { mode: 0o600 });
    renameSync(temporary, this.#file);
  }

  #use(action: () => void): void {
    if (!this.#usable) return;
    try {
      action();
    } catch (error) {
      this.#usable = false;
      this.#warn(`the input history is not kept: ${(error as Error).message}`);
    }
  }
}
