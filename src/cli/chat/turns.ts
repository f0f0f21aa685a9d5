const FENCE = '"""';

/**
 * Puts lines together to turns of a conversation: a line that ends in a backslash goes on in the next one, and so does
 * everything between two fences of three quotation marks.
 */
export class Turns {
  #lines: string[] = [];
  #fenced = false;

  /** Whether a turn has begun and is not complete. */
  get open(): boolean {
    return this.#lines.length > 0 || this.#fenced;
  }

  /** Takes a line. Returns the turn that it completes. */
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

  /** Keeps a line whose turn goes on, whatever it ends in: it was pasted with others. */
  hold(line: string): void {
    this.#lines.push(line);
  }

  /** The turn as far as it has come; the next line begins a new one. */
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
