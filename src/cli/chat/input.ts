import { createInterface, type Interface } from "node:readline";
import { Writable } from "node:stream";
import type { Context } from "../context";
import { HISTORY_LINES, type History } from "./history";
import { Turns } from "./turns";

/** Makes the terminal mark where pasted text begins and ends, so that line ends in it do not send it. */
const PASTE_ON = "\u001b[?2004h";
const PASTE_OFF = "\u001b[?2004l";

export interface InputOptions {
  /** The prompt before the line that is typed. */
  prompt(): string;
  /** Called for Ctrl-C at a terminal. Returns false if there was nothing to stop: then the input ends. */
  interrupt(): boolean;
  /** Lines of earlier sessions, and where those of this one go. Used only at a terminal. */
  readonly history?: History | undefined;
}

/**
 * The turns that a person types, or that come through a pipe. At a terminal, text that is typed during an answer is kept,
 * and shown with the next prompt.
 */
export class Input {
  /** Whether a person types at a terminal. */
  readonly terminal: boolean;
  readonly #context: Context;
  readonly #options: InputOptions;
  readonly #lines: Interface;
  readonly #turns = new Turns();
  /** Complete turns that wait; `seen` is false if they were typed during an answer, without being shown. */
  readonly #waiting: { readonly text: string; readonly seen: boolean }[] = [];
  #wake: (() => void) | undefined;
  #ended = false;
  #muted = true;
  #pasting = false;

  constructor(context: Context, options: InputOptions) {
    const { stdin, stdout } = context;
    this.#context = context;
    this.#options = options;
    this.terminal = stdin.isTTY === true && stdout.isTTY === true;
    this.#lines = createInterface({
      input: stdin,
      ...(this.terminal
        ? {
            output: this.#output(),
            terminal: true,
            history: options.history?.lines() ?? [],
            removeHistoryDuplicates: true,
          }
        : {}),
      historySize: HISTORY_LINES,
      crlfDelay: Number.POSITIVE_INFINITY,
    });
    this.#lines.on("line", (line) => {
      if (this.terminal) options.history?.add(line);
      this.#take(line);
    });
    this.#lines.on("close", () => {
      if (this.#turns.open) this.#waiting.push({ text: this.#turns.end(), seen: true });
      this.#ended = true;
      // After Ctrl-D the cursor stays behind the prompt; further output begins on a new line.
      if (this.terminal && !this.#muted) stdout.write("\n");
      this.#wake?.();
    });
    if (!this.terminal) return;
    stdout.write(PASTE_ON);
    // At a terminal in raw mode Ctrl-C is a key, not a signal.
    this.#lines.on("SIGINT", () => this.#interrupt());
    stdin.on("keypress", (_, key: { name?: string } | undefined) => {
      if (key?.name === "paste-start") this.#pasting = true;
      if (key?.name === "paste-end") this.#pasting = false;
    });
  }

  /** The next turn; undefined when the input has ended. */
  async next(): Promise<string | undefined> {
    if (this.#waiting.length === 0 && !this.#ended) {
      this.#show();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
      this.#muted = true;
    }
    const turn = this.#waiting.shift();
    if (turn?.seen === false && this.terminal) this.#context.stdout.write(`${this.#options.prompt()}${turn.text}\n`);
    return turn?.text;
  }

  close(): void {
    this.#lines.close();
    if (this.terminal) this.#context.stdout.write(PASTE_OFF);
  }

  #take(line: string): void {
    let turn: string | undefined;
    if (this.#pasting) this.#turns.hold(line);
    else turn = this.#turns.push(line);
    if (turn === undefined) {
      if (!this.#muted) this.#show();
      return;
    }
    this.#waiting.push({ text: turn, seen: !this.#muted });
    this.#muted = true;
    this.#wake?.();
  }

  #show(): void {
    if (!this.terminal) {
      this.#muted = false;
      return;
    }
    this.#muted = false;
    this.#lines.setPrompt(this.#turns.open ? "... " : this.#options.prompt());
    this.#lines.prompt(true);
  }

  #interrupt(): void {
    if (this.#options.interrupt()) return;
    if (this.#turns.open || this.#lines.line !== "") {
      // As in a shell: the typed text is deleted, and a new line begins.
      this.#turns.clear();
      this.#lines.write(null, { ctrl: true, name: "e" });
      this.#lines.write(null, { ctrl: true, name: "u" });
      this.#context.stdout.write("\n");
      this.#show();
      return;
    }
    this.#lines.close();
  }

  /** Standard output for readline, which echoes typed text: it writes nothing during an answer. */
  #output(): Writable {
    const stdout = this.#context.stdout as NodeJS.WriteStream;
    const output = new Writable({
      write: (chunk, _encoding, done) => {
        if (!this.#muted) stdout.write(chunk);
        done();
      },
    });
    Object.defineProperties(output, {
      isTTY: { value: true },
      columns: { get: () => stdout.columns },
      rows: { get: () => stdout.rows },
    });
    const resized = () => output.emit("resize");
    stdout.on("resize", resized);
    output.on("close", () => stdout.off("resize", resized));
    return output;
  }
}
