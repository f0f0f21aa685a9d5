const FENCE = '"""';

/**
 * Joins lines to turns of a conversation: a line that ends in a backslash continues on the next one, and so does everything
 * between two fences of three quotation marks.
 */
export class Turns {
  #lines: string[] = [];
  #fenced = false;

  /** Whether a turn has begun and is not complete. */
  get open(): boolean {
    return this.#lines.length > 0 || this.#fenced;
  }

  /** Adds a line. Returns the turn if the line completes it. */
  push(line: string): string | undefined {
    if (!this.open && line.trimStart().startsWith(FENCE)) {
      this.#fenced = true;
      return this.#inFence(line.trimStart().slice(FENCE.length));
    }
    if (this.#fenced) return this.#inFence(line);
    if (line.endsWith("\\")) {
      this.#lines.push(line.slice(0, -1));
      return undefined;
    }
    this.#lines.push(line);
    return this.end();
  }

  /** Adds a line that does not end its turn, whatever it ends in, because it was pasted together with others. */
  hold(line: string): void {
    this.#lines.push(line);
  }

  /** Returns the incomplete turn; the next line begins a new one. */
  end(): string {
    const text = this.#lines.join("\n");
    this.clear();
    return text.trim();
  }

  clear(): void {
    this.#lines = [];
    this.#fenced = false;
  }

  #inFence(line: string): string | undefined {
    const closed = line.trimEnd().endsWith(FENCE);
    const text = closed ? line.trimEnd().slice(0, -FENCE.length) : line;
    // The fences may stand on lines of their own.
    if (text !== "" || this.#lines.length > 0) this.#lines.push(text);
    return closed ? this.end() : undefined;
  }
}
