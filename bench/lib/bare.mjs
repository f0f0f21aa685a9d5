// What Node needs for streams of text from another process at the least, on this machine and now: a child writes a line
// of JSON for each step, with a piece for every stream; each stream is an async iterator that its caller reads.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { runBatch } from "./measure.mjs";

const STEP_MS = 10;

const child = `
const [streams, steps, pause] = process.argv.slice(1).map(Number);
let step = 0;
const timer = setInterval(() => {
  const final = ++step === steps ? 1 : 0;
  const entry = (index) => ["stream-" + index, final, [" word"], [final ? "length" : "None"], [1], 16];
  process.stdout.write(JSON.stringify(Array.from({ length: streams }, (_, index) => entry(index))) + "\\n");
  if (final) clearInterval(timer);
}, pause);
`;

class Pieces {
  #waiting = [];
  #resolve;

  put(piece) {
    this.#waiting.push(piece);
    this.#resolve?.();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#waiting.length > 0) {
        const [, final, [text]] = this.#waiting.shift();
        yield text;
        if (final) return;
      }
      await new Promise((resolve) => {
        this.#resolve = resolve;
      });
    }
  }
}

/** Runs a batch of `streams`; resolves with the same figures as a peer's. */
export async function bareBatch(streams, tokens) {
  const names = Array.from({ length: streams }, (_, index) => `stream-${index}`);
  const receivers = new Map(names.map((name) => [name, new Pieces()]));
  const args = ["-e", child, String(streams), String(tokens), String(STEP_MS)];
  const writer = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  createInterface({ input: writer.stdout }).on("line", (line) => {
    for (const entry of JSON.parse(line)) receivers.get(entry[0]).put(entry);
  });
  const ended = once(writer, "close");
  const result = await runBatch(
    async ({ name }, onDelta) => {
      let whole = "";
      for await (const text of receivers.get(name)) {
        onDelta();
        whole += text;
      }
      return whole;
    },
    names.map((name) => ({ name, tokens })),
  );
  await ended;
  return result;
}
