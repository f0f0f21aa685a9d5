// node-llama-cpp with the CPU library that it comes with, in this process. The weights are those of the other peers, written
// as GGUF in the same type; an adapter is set on a context, so each has one of its own beside that of the base.
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, renameSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { startLlama } from "../lib/llama.mjs";

const here = fileURLToPath(new URL(".", import.meta.url));
const cache = join(here, "../../.cache/gguf");
const execute = promisify(execFile);

/** llama.cpp's own limit of sequences in a context. */
const MOST_SEQUENCES = 256;

/** Types of weights in GGUF for vLLM's dtypes. */
const TYPES = { bfloat16: "bf16", float16: "f16", float32: "f32" };

/** Writes a folder as GGUF unless an earlier run did; resolves with the file's path. */
async function convert(python, what, folder, weights, options) {
  const { mtimeMs, size } = statSync(join(folder, weights));
  const key = createHash("sha256")
    .update(JSON.stringify([folder, mtimeMs, size, options]))
    .digest("hex");
  const path = join(cache, `${basename(folder)}-${key.slice(0, 12)}.gguf`);
  if (!existsSync(path)) {
    mkdirSync(cache, { recursive: true });
    const partial = `${path}.${process.pid}`;
    await execute(python, [join(here, "gguf.py"), what, folder, partial, ...options]);
    renameSync(partial, path);
  }
  return path;
}

/** Writes all GGUF files that a start with this config reads. */
async function prepare({ python, model, loras, engine }) {
  if (model.endsWith(".gguf")) {
    if (loras !== undefined) throw new Error("adapters are converted for a folder's model, not for a GGUF file's");
    return { modelPath: model, adapters: {} };
  }
  const type = TYPES[engine.dtype];
  if (type === undefined) throw new Error(`engine.dtype ${engine.dtype} has no type in GGUF; say one of vLLM's`);
  const adapters = {};
  for (const [name, folder] of Object.entries(loras ?? {})) {
    adapters[name] = await convert(python, "adapter", folder, "adapter_model.safetensors", ["--model", model]);
  }
  return { modelPath: await convert(python, "model", model, "model.safetensors", ["--type", type]), adapters };
}

/** A context and its sequences, lent to one request each, in the order of asking. */
class Pool {
  #free = [];
  #waiting = [];

  constructor(context) {
    this.context = context;
    while (context.sequencesLeft > 0) this.#free.push(context.getSequence());
  }

  async take() {
    return this.#free.pop() ?? new Promise((resolve) => this.#waiting.push(resolve));
  }

  async give(sequence) {
    await sequence.clearHistory();
    const next = this.#waiting.shift();
    if (next === undefined) this.#free.push(sequence);
    else next(sequence);
  }
}

export async function start(config) {
  const { engine } = config;
  const { modelPath, adapters } = await prepare(config);
  const llama = await startLlama();
  const model = await llama.loadModel({ modelPath });
  // A context holds the memory of all its sequences from the start, 12 MiB each for SmolLM2 and 512 tokens: together the
  // contexts get as many as the other peers run at once.
  const contexts = 1 + Object.keys(adapters).length;
  const sequences = Math.min(Math.ceil(engine.max_num_seqs / contexts), MOST_SEQUENCES);
  const open = async (lora) =>
    new Pool(await model.createContext({ sequences, contextSize: engine.max_model_len, ...(lora ? { lora } : {}) }));
  const pools = new Map([[undefined, await open()]]);
  for (const [name, path] of Object.entries(adapters)) pools.set(name, await open(path));

  return {
    async generate({ prompt, tokens, lora }, onDelta) {
      const pool = pools.get(lora);
      if (pool === undefined) throw new Error(`there is no adapter ${lora}`);
      const sequence = await pool.take();
      try {
        let whole = "";
        let left = tokens;
        let unread = []; // tokens that end in the middle of a character
        let before = model.tokenize(prompt);
        for await (const token of sequence.evaluate(before, { temperature: 0, yieldEogToken: true })) {
          unread.push(token);
          left--;
          const text = model.detokenize(unread, false, before);
          if (left === 0 || !text.endsWith("\ufffd")) {
            before = unread;
            unread = [];
            onDelta();
            whole += text;
          }
          if (left === 0) return whole;
        }
        throw new Error(`node-llama-cpp ended ${left} tokens early`);
      } finally {
        await pool.give(sequence);
      }
    },
    async stop() {
      await llama.dispose();
    },
  };
}
