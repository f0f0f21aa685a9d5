// The part of a terminal that `npm run demo` and npm itself use: text, line feeds, moving up, erasing, bold, dim, colours.

const reset = { bold: false, dim: false, colour: undefined };

/** A screen of rows that grows downwards; what it does not know is an error, so that no recording is quietly wrong. */
export class Screen {
  /** @type {{ char: string, bold: boolean, dim: boolean, colour: number | undefined }[][]} */
  rows = [[]];
  #row = 0;
  #column = 0;
  #style = reset;
  #rest = "";

  /** @param {string} text what the program wrote; an escape sequence may be cut between two calls */
  write(text) {
    const all = this.#rest + text;
    this.#rest = "";
    for (let at = 0; at < all.length; ) {
      if (all[at] !== "\x1b") {
        this.#put(all[at]);
        at++;
        continue;
      }
      // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what a terminal reads
      const sequence = /^\x1b\[[?\d;]*[A-Za-z]/.exec(all.slice(at, at + 32))?.[0];
      if (sequence === undefined) {
        this.#rest = all.slice(at);
        if (this.#rest.length > 16)
          throw new Error(`an escape sequence that is not known: ${JSON.stringify(this.#rest)}`);
        return;
      }
      this.#obey(sequence.slice(2, -1), sequence.at(-1));
      at += sequence.length;
    }
  }

  #put(char) {
    if (char === "\n") {
      this.#row++;
      if (this.#row === this.rows.length) this.rows.push([]);
    } else if (char === "\r") this.#column = 0;
    else {
      const row = this.rows[this.#row];
      while (row.length < this.#column) row.push({ char: " ", ...reset });
      row[this.#column++] = { char, ...this.#style };
    }
  }

  #obey(parameters, command) {
    const [first = ""] = parameters.split(";");
    const count = first === "" ? 1 : Number(first);
    if (command === "m") for (const code of parameters.split(";")) this.#paint(Number(code));
    else if (command === "A") this.#row = Math.max(0, this.#row - count);
    else if (command === "G") this.#column = count - 1;
    else if (command === "K" && first === "2") this.rows[this.#row] = [];
    else if (command === "K") this.rows[this.#row].length = Math.min(this.rows[this.#row].length, this.#column);
    // The cursor's form and bracketed paste change nothing that is seen here.
    else if (!parameters.startsWith("?"))
      throw new Error(`a terminal command that is not known: ${parameters}${command}`);
  }

  #paint(code) {
    if (code === 0) this.#style = reset;
    else if (code === 1) this.#style = { ...this.#style, bold: true };
    else if (code === 2) this.#style = { ...this.#style, dim: true };
    else if (code === 22) this.#style = { ...this.#style, bold: false, dim: false };
    else if (code >= 30 && code <= 37) this.#style = { ...this.#style, colour: code - 30 };
    else if (code === 39) this.#style = { ...this.#style, colour: undefined };
    else throw new Error(`a text style that is not known: ${code}`);
  }

  /** The rows as runs of equal style: `[{ text, bold, dim, colour }]` each, without blanks at the end. */
  lines() {
    return this.rows.map((row) => {
      const runs = [];
      for (const { char, ...style } of row) {
        const last = runs.at(-1);
        if (last && last.bold === style.bold && last.dim === style.dim && last.colour === style.colour)
          last.text += char;
        else runs.push({ text: char, ...style });
      }
      const end = runs.at(-1);
      if (end !== undefined) end.text = end.text.trimEnd();
      return runs.filter(({ text }) => text !== "");
    });
  }
}
