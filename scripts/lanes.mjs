// Runs chains of programs side by side, each in a lane of its own, and keeps their output readable: one lane writes to
// the terminal as it goes, the output of each other lane is shown as one block when it ends, and a line every half minute
// says what those lanes are doing.
import { availableParallelism } from "node:os";
import { stripVTControlCharacters } from "node:util";
import { say, start } from "./steps.mjs";

const REPORT_EVERY = 30_000;

class Lane {
  running = false;
  /** Whether it writes to the terminal as it goes. */
  live = false;
  began = 0;
  /** What it runs now. */
  step = "";
  /** The end of what this program wrote. */
  #recent = "";
  /** Output that was not shown yet. */
  #unseen = "";

  constructor(name, body) {
    this.name = name;
    this.body = body;
  }

  write(text) {
    this.#unseen += text;
    // Programs write a line in pieces: what they wrote of it so far counts.
    this.#recent = (this.#recent + text).slice(-1_000);
    if (this.live) this.show();
  }

  /** Writes what was not shown yet: whole lines, so that lanes never share a line. */
  show() {
    const end = this.#unseen.lastIndexOf("\n") + 1;
    process.stdout.write(this.#unseen.slice(0, end));
    this.#unseen = this.#unseen.slice(end);
  }

  end() {
    if (this.#unseen !== "") this.write("\n");
    this.show();
    this.running = false;
    this.live = false;
  }

  begin(step) {
    if (step !== this.name) this.write(`> ${step}\n`);
    this.step = step === this.name ? "" : step;
    this.#recent = "";
  }

  get lastLine() {
    const lines = stripVTControlCharacters(this.#recent).split("\n");
    return (
      lines
        .findLast((line) => line.trim() !== "")
        ?.trim()
        .slice(-80) ?? ""
    );
  }

  get duration() {
    const seconds = Math.round((Date.now() - this.began) / 1000);
    return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  }
}

/**
 * Runs lanes side by side, at most one for each processor; resolves with what each body returned, in their order.
 *
 * A body gets `run(what, command, args, options)`: it runs a program as `start` of steps.mjs does, in this lane, and
 * resolves with the program's exit code. Lanes start in the order given.
 */
export async function lanes(bodies) {
  const all = bodies.map(({ name, body }) => new Lane(name, body));
  const waiting = [...all.entries()];
  const results = new Array(all.length);

  const chooseLive = () => {
    const first = all.find(({ running }) => running);
    if (first === undefined || first.live) return;
    first.live = true;
    say(first.name);
    first.show();
  };

  async function go(lane) {
    lane.running = true;
    lane.began = Date.now();
    chooseLive();
    const run = (what, command, args, options = {}) => {
      lane.begin(what);
      // A program that writes to a pipe would leave its colours out.
      const colours = process.stdout.isTTY && !process.env.NO_COLOR ? { FORCE_COLOR: "1" } : {};
      const env = { ...process.env, ...colours, ...options.env };
      return start(command, args, { ...options, env, onOutput: (text) => lane.write(text) });
    };
    try {
      return await lane.body(run);
    } finally {
      const wasLive = lane.live;
      if (!wasLive) say(`${lane.name} has ended after ${lane.duration}; its output:`);
      lane.end();
      if (wasLive) say(`${lane.name} has ended after ${lane.duration}`);
      const live = all.find((other) => other.live);
      if (live === undefined) chooseLive();
      else say(`${live.name}, continued`);
    }
  }

  const timer = setInterval(() => {
    for (const lane of all.filter(({ running, live }) => running && !live)) {
      const doing = [lane.step, lane.lastLine].filter((text) => text !== "").join(": ");
      say(`${lane.name}, running for ${lane.duration}: ${doing}`);
    }
  }, REPORT_EVERY);
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      const [at, lane] = next;
      results[at] = await go(lane);
    }
  };
  try {
    await Promise.all(Array.from({ length: Math.min(all.length, availableParallelism()) }, worker));
  } finally {
    clearInterval(timer);
  }
  return results;
}
