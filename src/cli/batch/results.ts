import { appendFileSync, existsSync, readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { InvalidArgumentError } from "../../errors";
import type { Row } from "./rows";

/** A result in the form that is written, with the line that it belongs to. */
export interface Result {
  readonly line: number;
  readonly id: string | number;
  readonly input: unknown;
  readonly [field: string]: unknown;
}

/** Where the results of a run go. */
export interface Results {
  /** Whether the row already had a result at the start. */
  has(row: Row): boolean;
  add(result: Result): void;
  fail(failure: Result): void;
  /** Sorts everything in the order of the lines. */
  finish(): void;
}

/**
 * Writes results to a file, and failures to a second file next to it. Each is appended at once, so that none is lost if the
 * run is interrupted; at the end of a run both are sorted in the order of the lines.
 */
export class ResultsFile implements Results {
  readonly failedPath: string;
  readonly #done = new Map<string | number, Result>();
  #failures = 0;

  /** @throws {@link InvalidArgumentError} if the file is not a results file, or has results of other prompts */
  constructor(
    private readonly path: string,
    rows: readonly Row[],
  ) {
    this.failedPath = `${path.replace(/\.(jsonl|ndjson)$/i, "")}.failed.jsonl`;
    for (const result of read(path)) this.#done.set(result.id, result);
    const inputs = new Map(rows.map((row) => [row.id, row.input]));
    for (const { id, input } of this.#done.values()) {
      if (isDeepStrictEqual(inputs.get(id), input)) continue;
      throw new InvalidArgumentError(`${path} holds the result of another prompt under ${JSON.stringify(id)}`, {
        hint: "name another file with --out, or remove this one to begin again",
      });
    }
    // Opened before the model is loaded, so that a file that can't be written is reported at once.
    appendFileSync(path, "");
    rmSync(this.failedPath, { force: true });
  }

  has({ id }: Row): boolean {
    return this.#done.has(id);
  }

  add(result: Result): void {
    this.#done.set(result.id, result);
    appendFileSync(this.path, toLine(result));
  }

  fail(failure: Result): void {
    this.#failures++;
    appendFileSync(this.failedPath, toLine(failure));
  }

  finish(): void {
    const results = [...this.#done.values()].sort((a, b) => a.line - b.line);
    replace(this.path, results);
    if (this.#failures > 0)
      replace(
        this.failedPath,
        read(this.failedPath).sort((a, b) => a.line - b.line),
      );
  }
}

/** Writes results to standard output in the order of the lines: a result waits for those of earlier lines. */
export class ResultsStream implements Results {
  readonly #waiting = new Map<number, Result | undefined>();
  readonly #lines: number[];

  /** @param rows - all that will get a result or fail */
  constructor(
    rows: readonly { readonly line: number }[],
    private readonly write: (text: string) => void,
  ) {
    this.#lines = rows.map(({ line }) => line).sort((a, b) => a - b);
  }

  has(): boolean {
    return false;
  }

  add(result: Result): void {
    this.#settle(result.line, result);
  }

  fail({ line }: Result): void {
    this.#settle(line, undefined);
  }

  finish(): void {
    for (const [, result] of [...this.#waiting].sort(([a], [b]) => a - b)) {
      if (result !== undefined) this.write(toLine(result));
    }
    this.#waiting.clear();
  }

  #settle(line: number, result: Result | undefined): void {
    this.#waiting.set(line, result);
    for (let next = this.#lines[0]; next !== undefined && this.#waiting.has(next); next = this.#lines[0]) {
      const ready = this.#waiting.get(next);
      if (ready !== undefined) this.write(toLine(ready));
      this.#waiting.delete(next);
      this.#lines.shift();
    }
  }
}

function toLine(result: Result): string {
  return `${JSON.stringify(result)}\n`;
}

/** Reads results. A last line that a killed process left unfinished is cut off. */
function read(path: string): Result[] {
  if (!existsSync(path)) return [];
  const bytes = readFileSync(path);
  const end = bytes.lastIndexOf("\n") + 1;
  const text = bytes.toString("utf8", 0, end);
  const results = text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line, index) => parseResult(line, `${path}, line ${index + 1}`));
  if (end < bytes.length) {
    // A file of another kind may end without a line end: it is not changed.
    if (results.length === 0) parseResult(bytes.toString("utf8"), path);
    truncateSync(path, end);
  }
  return results;
}

function parseResult(line: string, where: string): Result {
  try {
    const result = JSON.parse(line) as Result;
    if (typeof result.line === "number" && result.id !== undefined && result.input !== undefined) return result;
  } catch {
    // Reported below.
  }
  throw new InvalidArgumentError(`${where} is not a result of tritonode run`, {
    hint: "name another file with --out: this one is not overwritten",
  });
}

/** Replaces a file atomically: if the process is killed, either the old or the new file is there. */
function replace(path: string, results: readonly Result[]): void {
  const draft = `${path}.${process.pid}.new`;
  try {
    writeFileSync(draft, results.map(toLine).join(""));
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
}
