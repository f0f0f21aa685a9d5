// `npm run demo:record`: docs/images/demo.svg, from what `npm run demo` writes to a real terminal.
//
//   npm run demo:record -- [--question "Why is the sky blue?"] [--out docs/images/demo.svg]
//
// util-linux's `script` gives the pseudo-terminal and says when each piece was written. Pauses longer than a second (the
// load) are shortened to one; the seconds in the text are the real ones, and the answers stream as fast as they did. Only the
// folder of this checkout and the home folder are written shorter.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { readArguments } from "./arguments.mjs";
import { Screen } from "./record/screen.mjs";
import { toSvg } from "./record/svg.mjs";
import { build, dependencies, main, root, run, runtime } from "./steps.mjs";

const COLUMNS = 118;
/** Seconds: the longest pause that is shown, the shortest time between two pictures, and how long the last one stays. */
const [PAUSE, STEP, HOLD] = [1, 0.06, 5];

const { values } = readArguments(import.meta.filename, {
  question: { type: "string", default: "Why is the sky blue?" },
  out: { type: "string", default: join(root, "docs/images/demo.svg") },
});
const demo = `npm run demo -- "${values.question.replaceAll(/["$`\\]/g, "\\$&")}"`;

main(async () => {
  // What is missing is installed before, not in the picture.
  await dependencies();
  await build();
  await runtime(["demo"]);
  const folder = mkdtempSync(join(tmpdir(), "tritonode-recording-"));
  try {
    const [output, timing] = [join(folder, "output"), join(folder, "timing")];
    const command = `stty cols ${COLUMNS} rows 40; exec ${demo}`;
    const env = { ...process.env, FORCE_COLOR: undefined, NO_COLOR: undefined, TERM: "xterm-256color" };
    await run(
      "script",
      ["--quiet", "--flush", "--return", "--log-out", output, "--log-timing", timing, "--command", command],
      { env },
    );
    const frames = toFrames(readFileSync(output), readFileSync(timing, "utf8"));
    mkdirSync(dirname(values.out), { recursive: true });
    const title = "npm run demo: the base model and two adapters answer a question side by side, in one batch";
    writeFileSync(values.out, toSvg(frames, { title, columns: COLUMNS, hold: HOLD }));
    process.stdout.write(`${values.out}: ${frames.length} pictures, ${frames.at(-1).at.toFixed(1)} s\n`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

/** @param {Buffer} output after a line of `script`'s own @param {string} timing lines of "seconds bytes" */
function toFrames(output, timing) {
  const screen = new Screen();
  // A prompt as a reader would have typed it.
  screen.write(`\x1b[2m$\x1b[0m ${demo}\r\n`);
  const frames = [{ at: 0, lines: screen.lines() }];
  const decoder = new TextDecoder();
  let [position, clock, shown] = [output.indexOf("\n") + 1, 0, 0];
  for (const line of timing.trim().split("\n")) {
    const [delay, bytes] = line.split(" ").map(Number);
    clock += Math.min(delay, PAUSE);
    const text = decoder.decode(output.subarray(position, position + bytes), { stream: true });
    screen.write(text.replaceAll(root, "~/tritonode").replaceAll(homedir(), "~"));
    position += bytes;
    const picture = { at: clock, lines: screen.lines() };
    if (clock - shown < STEP) frames[frames.length - 1] = { at: frames.at(-1).at, lines: picture.lines };
    else {
      frames.push(picture);
      shown = clock;
    }
  }
  return frames;
}
