// The tutorial with tritonode: one base model, two LoRA adapters, one batch, no server.
//
//   node demo.mjs <workspace> [question]
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { VllmModel } from "tritonode";

const [workspace, ...words] = process.argv.slice(2);
const question = words.join(" ") || "What is the capital of France, and what is it known for?";
const tty = process.stdout.isTTY && !process.env.NO_COLOR;
const style = (code, text) => (tty ? `\x1b[${code}m${text}\x1b[0m` : text);

/** This process and everything below it. */
function processTree() {
  const parents = new Map();
  for (const entry of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      parents.set(Number(entry), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // It has ended since.
    }
  }
  const tree = new Set([process.pid]);
  for (let size = 0; size !== tree.size; ) {
    size = tree.size;
    for (const [pid, parent] of parents) if (tree.has(parent)) tree.add(pid);
  }
  return [...tree];
}

/** TCP and UDP sockets that the process tree holds, as the kernel counts them. */
function internetSockets() {
  const inodes = new Set();
  for (const table of ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"]) {
    const lines = readFileSync(`/proc/net/${table}`, "utf8").trim().split("\n").slice(1);
    for (const line of lines) inodes.add(line.trim().split(/\s+/)[9]);
  }
  let count = 0;
  for (const pid of processTree()) {
    for (const fd of readdirSync(`/proc/${pid}/fd`)) {
      try {
        const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
        if (inode !== undefined && inodes.has(inode)) count++;
      } catch {
        // Closed since.
      }
    }
  }
  return count;
}

function wrap(text, width) {
  const lines = [];
  for (const paragraph of text.split("\n")) {
    let line = "";
    for (const word of paragraph.split(" ")) {
      if (line !== "" && line.length + word.length + 1 > width) {
        lines.push(line);
        line = word;
      } else line = line === "" ? word : `${line} ${word}`;
      while (line.length > width) {
        lines.push(line.slice(0, width));
        line = line.slice(width);
      }
    }
    lines.push(line);
  }
  return lines;
}

/** Draws the answers beside each other, over what was drawn before. */
class Columns {
  #height = 0;
  constructor(titles) {
    this.titles = titles;
    this.width = Math.min(38, Math.floor((process.stdout.columns ?? 120) / titles.length) - 3);
  }
  draw(texts) {
    const columns = texts.map((text) => wrap(text, this.width));
    const height = Math.max(this.#height - 1, ...columns.map((lines) => lines.length));
    const rows = [this.titles.map((title) => style(1, title.padEnd(this.width))).join("   ")];
    for (let row = 0; row < height; row++) {
      rows.push(columns.map((lines) => (lines[row] ?? "").padEnd(this.width)).join("   "));
    }
    const up = this.#height === 0 ? "" : `\x1b[${this.#height}A`;
    process.stdout.write(`${up}${rows.map((row) => `\x1b[2K${row}\n`).join("")}`);
    this.#height = rows.length;
  }
}

const started = performance.now();
const phases = {
  start: "Triton starts in this process",
  import: "vLLM is imported by its child",
  "check-adapters": "the adapters' files are checked",
  "load-model": "the model is loaded",
  "load-adapter": "an adapter is loaded",
  "warm-up": "a mixed batch warms the engine up",
  ready: "ready",
};
const seconds = () => ((performance.now() - started) / 1000).toFixed(1).padStart(5);

const model = await VllmModel.load({
  modelRepository: join(workspace, "model_repository"),
  onProgress: ({ phase, adapter }) =>
    console.log(style(2, `${seconds()} s  ${phases[phase] ?? phase}${adapter === undefined ? "" : `: ${adapter}`}`)),
});

try {
  await answer();
} finally {
  await model.dispose();
}

async function answer() {
  const { kvCache } = await model.info();
  const adapters = await model.adapters.list();
  console.log(`\n${style(1, "Question:")} ${question}\n`);

  const names = [undefined, ...adapters.map(({ name }) => name)];
  const texts = names.map(() => "");
  const columns = tty ? new Columns(names.map((name) => name ?? "base model")) : undefined;
  const prompt = `<|im_start|>user\n${question}<|im_end|>\n<|im_start|>assistant\n`;
  const began = performance.now();
  let tokens = 0;
  let most = 0;
  let sockets = 0;

  // All answers at once: vLLM computes them in the same batch, each row with its own adapter.
  await Promise.all(
    names.map(async (lora, column) => {
      for await (const { text, usage } of model.stream(prompt, { lora, temperature: 0, max_tokens: 60 })) {
        texts[column] += text;
        tokens += usage?.completionTokens ?? 0;
        columns?.draw(texts);
        // The first of them may have begun before the others came.
        if (most < names.length) {
          most = Math.max(most, (await model.info()).requests.running);
          sockets = Math.max(sockets, internetSockets());
        }
      }
    }),
  );
  const took = (performance.now() - began) / 1000;

  if (columns === undefined) {
    names.forEach((name, at) => {
      console.log(`${name ?? "base model"}:\n  ${wrap(texts[at], 100).join("\n  ")}\n`);
    });
  }
  console.log(
    `\n${tokens} tokens in ${took.toFixed(2)} s (${(tokens / took).toFixed(0)} tokens/s), ` +
      `${most} requests in one batch, KV cache of ${kvCache.tokens} tokens`,
  );
  console.log(`open internet sockets of this process and its children: ${Math.max(sockets, internetSockets())}`);
}
