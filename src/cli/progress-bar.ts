import { type Output, styler } from "./terminal";

/** What a progress display shows at one moment. */
export interface BarState {
  /** The current step. Without a terminal, each new step is written on its own line. */
  phase: string;
  /** The step in words. */
  message: string;
  /** 0 to 1; undefined if the end is not known. */
  fraction?: number | undefined;
}

const WIDTH = 24;
/** A terminal needs no more than this many redraws a second, ms. */
const REDRAW_MS = 60;
/** Without a terminal: at most one line per this many ms within a phase. */
const LINE_MS = 5_000;
const SPINNER = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];

/**
 * Shows progress on stderr: one line redrawn in place on a terminal; elsewhere a plain line for each phase, and further
 * lines from time to time within it, so that a log is readable and shows that the program still works.
 */
export class ProgressBar {
  private state: (() => BarState) | undefined;
  private phase: string | undefined;
  private drawnAt = Number.NEGATIVE_INFINITY;
  private drawn = false;
  private frame = 0;
  private timer: NodeJS.Timeout | undefined;
  private readonly terminal: boolean;
  private readonly style: ReturnType<typeof styler>;

  constructor(
    private readonly output: Output,
    private readonly environment: NodeJS.ProcessEnv = process.env,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.terminal = output.isTTY === true && this.environment.TERM !== "dumb";
    this.style = styler(output, environment);
  }

  /** @param next - what is shown from now on; a function is called at each redraw, for text that changes with time */
  update(next: BarState | (() => BarState)): void {
    const before = this.phase;
    this.state = typeof next === "function" ? next : () => next;
    const state = this.state();
    this.phase = state.phase;
    if (this.terminal) {
      this.timer ??= setInterval(() => this.draw(), 120).unref();
      if (this.now() - this.drawnAt >= REDRAW_MS) this.draw();
    } else if (before !== state.phase || this.now() - this.drawnAt >= LINE_MS) {
      this.drawnAt = this.now();
      this.output.write(`${state.message}\n`);
    }
  }

  /** Writes a line above the bar. */
  log(line: string): void {
    this.clear();
    this.output.write(`${line}\n`);
    if (this.terminal && this.state !== undefined) this.draw();
  }

  /** Removes the bar and, if given, writes a last line. */
  end(line?: string): void {
    clearInterval(this.timer);
    this.timer = undefined;
    this.clear();
    this.state = undefined;
    if (line !== undefined) this.output.write(`${line}\n`);
  }

  private draw(): void {
    if (this.state === undefined) return;
    this.drawnAt = this.now();
    const { fraction, message } = this.state();
    const width = Math.max(20, (this.output.columns ?? 80) - 1);
    let head: string;
    let length: number;
    if (fraction === undefined) {
      head = this.style("cyan", SPINNER[this.frame++ % SPINNER.length] ?? "");
      length = 1;
    } else {
      const filled = Math.round(Math.min(1, Math.max(0, fraction)) * WIDTH);
      head = `${this.style("cyan", "█".repeat(filled))}${this.style("dim", "░".repeat(WIDTH - filled))}`;
      length = WIDTH;
    }
    // a line longer than the terminal would wrap, and could not be redrawn in place
    this.output.write(`\r\u001b[2K${head} ${cut(message, width - length - 1)}`);
    this.drawn = true;
  }

  private clear(): void {
    if (this.drawn) this.output.write("\r\u001b[2K");
    this.drawn = false;
  }
}

function cut(text: string, width: number): string {
  return text.length <= width ? text : `${text.slice(0, Math.max(0, width - 1))}…`;
}
