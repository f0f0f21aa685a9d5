import { DisposedError, EngineDiedError, InvalidArgumentError, TritonodeError } from "../../errors";
import type { VllmModel } from "../../model";
import { type AskedModel, answerJson, ask, hasChatTemplate } from "../ask";
import type { AskSettings } from "../ask-settings";
import type { Context } from "../context";
import { withModel } from "../model";
import { checkGiven } from "../model-source";
import { ProgressBar } from "../progress-bar";
import { errorFields } from "../report-error";
import { styler } from "../terminal";
import { type Results, ResultsFile, ResultsStream } from "./results";
import { type BadRow, type Row, readRows } from "./rows";

export interface FileRun {
  /** The file's name, for messages. */
  readonly file: string;
  readonly text: string;
  readonly out: string | undefined;
  /** The adapter of lines that name none. */
  readonly use: string | undefined;
  /** How many lines are answered at a time. */
  readonly parallel: number;
}

/** Answers every line of a file of prompts. Resolves with the exit code: 1 when a line failed. */
export async function runFile(context: Context, settings: AskSettings, run: FileRun): Promise<number> {
  const { rows, bad } = readRows(run.text, run.file);
  checkAdapters(rows, settings, run);
  const results =
    run.out === undefined
      ? new ResultsStream([...rows, ...bad], (text) => void context.stdout.write(text))
      : new ResultsFile(run.out, rows);
  const waiting = rows.filter((row) => !results.has(row));
  const batch = new Batch(context, settings, run, results, rows.length + bad.length);
  batch.skip(rows.length - waiting.length);
  for (const row of bad) batch.fail(row, row.error);
  if (waiting.length > 0) {
    await withModel(context, settings.load, async (model) => {
      try {
        await batch.answer(model, waiting);
      } finally {
        batch.stop();
      }
    });
  }
  return batch.end();
}

/** Reports an adapter that would not be used, or that does not exist, before the model is loaded. */
function checkAdapters(rows: readonly Row[], { load }: AskSettings, { file, use }: FileRun): void {
  const names = load.adapters.map(({ name }) => name);
  if (names.length > 0 && use === undefined && rows.every(({ lora }) => typeof lora !== "string")) {
    throw new InvalidArgumentError(`no line of ${file} names an adapter: --lora ${names[0]} would not be used`, {
      hint: `answer every line with it: --use ${names[0]}; or name it in the lines: {"prompt": "...", "lora": "${names[0]}"}`,
    });
  }
  if (use !== undefined) checkGiven(load, use, "--use");
  for (const { lora, line } of rows) {
    if (typeof lora === "string") checkGiven(load, lora, `${file}, line ${line},`);
  }
}

/** Answers many rows concurrently: counts them, shows progress, and writes results and failures. */
class Batch {
  private readonly bar: ProgressBar | undefined;
  private began = performance.now();
  private skipped = 0;
  private done = 0;
  private failed = 0;
  private tokens = 0;

  constructor(
    private readonly context: Context,
    private readonly settings: AskSettings,
    private readonly run: FileRun,
    private readonly results: Results,
    private readonly total: number,
  ) {
    // Results and a progress bar on the same terminal would overwrite each other.
    const shared = run.out === undefined && context.stdout.isTTY === true;
    if (!settings.quiet && !shared) this.bar = new ProgressBar(context.stderr, context.environment);
  }

  /** Counts rows that already have a result. */
  skip(count: number): void {
    this.skipped = count;
    if (count > 0) this.tell(`${count} of ${this.total} lines are answered already`);
  }

  async answer(model: VllmModel, rows: readonly Row[]): Promise<void> {
    const template = !this.settings.raw && (await hasChatTemplate(model));
    if (!template && !this.settings.raw) this.tell("the model has no chat template: it continues each prompt");
    const stop = new AbortController();
    const signal = AbortSignal.any([this.context.signal, stop.signal]);
    const next = rows.values();
    let fatal: unknown;
    const worker = async () => {
      for (const row of next) {
        if (signal.aborted) return;
        try {
          await this.one(model, row, template, signal);
        } catch (error) {
          fatal ??= error;
          stop.abort();
        }
        this.show();
      }
    };
    this.began = performance.now();
    this.show();
    await Promise.all(Array.from({ length: Math.min(this.run.parallel, rows.length) }, worker));
    if (fatal !== undefined && !this.context.signal.aborted) throw fatal;
    this.context.signal.throwIfAborted();
  }

  /** Answers one row. Throws only errors that end the whole run. */
  private async one(model: AskedModel, row: Row, template: boolean, signal: AbortSignal): Promise<void> {
    const { line, id, input } = row;
    const lora = row.lora === undefined ? this.run.use : (row.lora ?? undefined);
    try {
      const answer = await ask(model, this.question(row, template), {
        lora,
        signal,
        sampling: { ...this.settings.sampling, ...row.sampling },
      });
      this.done++;
      this.tokens += answer.completionTokens;
      this.results.add({ line, id, input, ...answerJson(answer, lora) });
    } catch (error) {
      if (signal.aborted) return;
      // A refused line does not affect the next one; a dead engine does.
      if (!(error instanceof TritonodeError) || error instanceof EngineDiedError || error instanceof DisposedError) {
        throw error;
      }
      this.fail(row, error);
    }
  }

  private question({ question }: Row, template: boolean) {
    const { system } = this.settings;
    if ("prompt" in question && !template) return question;
    const messages = "prompt" in question ? [{ role: "user", content: question.prompt }] : question.messages;
    const own = messages[0]?.role === "system";
    return { messages: system === undefined || own ? messages : [{ role: "system", content: system }, ...messages] };
  }

  /** Records a failed row, and prints the reason. */
  fail(row: Row | BadRow, error: unknown): void {
    this.failed++;
    const fields = errorFields(error);
    this.results.fail({ line: row.line, id: row.id, input: row.input, error: fields });
    const style = styler(this.context.stderr, this.context.environment);
    this.log(`${style("red", "failed")}: ${this.run.file}, line ${row.line}: ${fields.message}`);
  }

  /** Removes the progress bar, and prints how many lines were answered. */
  stop(): void {
    this.bar?.end();
    if (this.run.out === undefined) {
      this.results.finish();
    } else if (this.context.signal.aborted) {
      const count = this.skipped + this.done;
      this.tell(`${count} of ${this.total} lines are answered; the same command continues with the rest`);
    }
  }

  end(): number {
    this.results.finish();
    const seconds = (performance.now() - this.began) / 1000;
    const parts = [`${this.done} answered`];
    if (this.skipped > 0) parts.push(`${this.skipped} had results already`);
    if (this.failed > 0) parts.push(`${this.failed} failed`);
    if (this.done > 0) parts.push(`${this.tokens} tokens in ${seconds.toFixed(1)} s`);
    this.tell(`${this.total} lines: ${parts.join(", ")}`);
    if (this.failed > 0 && this.results instanceof ResultsFile) {
      this.tell(`the lines that failed are in ${this.results.failedPath}; the same command tries them again`);
    }
    return this.failed === 0 ? 0 : 1;
  }

  private show(): void {
    const { done, failed, skipped, total, tokens } = this;
    const ended = done + failed + skipped;
    const seconds = (performance.now() - this.began) / 1000;
    // The first answers come late, because all lines of the first batch begin together.
    const enough = done > 0 && done + failed >= Math.min(this.run.parallel, total / 4);
    const left = enough ? ((total - ended) * seconds) / (done + failed) : undefined;
    const parts = [`${ended} of ${total} lines`];
    if (failed > 0) parts.push(`${failed} failed`);
    if (tokens > 0) parts.push(`${(tokens / seconds).toFixed(0)} tokens/s`);
    if (left !== undefined && left >= 1) parts.push(`about ${left.toFixed(0)} s left`);
    this.bar?.update({ phase: "lines", message: parts.join(", "), fraction: ended / total });
  }

  private tell(text: string): void {
    if (!this.settings.quiet) this.log(styler(this.context.stderr, this.context.environment)("dim", text));
  }

  private log(line: string): void {
    if (this.bar === undefined) this.context.stderr.write(`${line}\n`);
    else this.bar.log(line);
  }
}
