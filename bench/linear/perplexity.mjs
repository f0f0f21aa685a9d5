// Perplexity of this project's documentation by one GGUF file: transformers on the dequantised weights in float32, this
// package in float32 and in bfloat16, and (with --llama) llama.cpp. A difference comes with its standard error over the tokens.
//
//   node bench/linear/perplexity.mjs [--windows 6] [--file MODEL.gguf] [--llama]
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { checkCounts, readArguments } from "../../scripts/arguments.mjs";
import { main, output, root } from "../../scripts/steps.mjs";
import { startLlama } from "../lib/llama.mjs";
import { table } from "../lib/table.mjs";
import { prepareLinear } from "./prepare.mjs";

/** By this package, through its OpenAI completions: those of prompts are in no other answer. */
async function ours(file, dtype, windows) {
  // Built by then (`prepareLinear`).
  const { VllmModel } = await import("../../dist/index.mjs");
  const model = await VllmModel.load({
    engine: {
      model: file,
      enforce_eager: true,
      dtype,
      max_model_len: 1280,
      max_num_seqs: 4,
      kv_cache_memory_bytes: 256 << 20,
    },
  });
  try {
    const {
      data: [{ id }],
    } = await (await model.fetch("http://model/v1/models")).json();
    const found = [];
    for (const window of windows) {
      const response = await model.fetch("http://model/v1/completions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ model: id, prompt: window, max_tokens: 1, temperature: 0, prompt_logprobs: 0 }),
      });
      if (!response.ok) throw new Error(await response.text());
      const { choices } = await response.json();
      found.push(choices[0].prompt_logprobs.slice(1).map((each, at) => each[window[at + 1]].logprob));
    }
    return found;
  } finally {
    await model.dispose();
  }
}

/** Greedy: the other samplers leave out what is unlikely, also from the sum. */
const GREEDY = { temperature: 0 };

/**
 * By llama.cpp: for each position the next token's logit, the largest, and the sum of exponentials less the largest.
 * The largest is asked for as the top one: `includeMax` of node-llama-cpp 3.22 gives it only if it was asked for by token.
 */
async function llamaCpp(file, windows) {
  const llama = await startLlama();
  try {
    const model = await llama.loadModel({ modelPath: file });
    const context = await model.createContext({ contextSize: 1280 });
    const sequence = context.getSequence();
    const found = [];
    for (const window of windows) {
      await sequence.clearHistory();
      const asked = window.slice(0, -1).map((token, at) => {
        const logits = { filter: { tokens: [window[at + 1]], includeTop: 1 } };
        return [token, { generateNext: { logits, totalLogitWeight: true, options: GREEDY } }];
      });
      const answers = await sequence.controlledEvaluate(asked);
      found.push(
        answers.map(({ next }, at) => {
          const largest = Math.max(...next.logits.values());
          return next.logits.get(window[at + 1]) - largest - Math.log(next.totalLogitWeight);
        }),
      );
    }
    return found;
  } finally {
    await llama.dispose();
  }
}

/** By transformers, in a Python process. */
async function reference(python, file, windows) {
  const folder = mkdtempSync(join(tmpdir(), "tritonode-perplexity-"));
  try {
    writeFileSync(join(folder, "windows.json"), JSON.stringify(windows));
    const script = join(root, "bench/linear/reference_perplexity.py");
    return JSON.parse(await output(python, [script, file, join(folder, "windows.json")]));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** How much larger a perplexity is than another's, with its standard error. */
function against(found, other) {
  const differences = found.map((value, at) => other[at] - value);
  const middle = mean(differences);
  const error = Math.sqrt(mean(differences.map((each) => (each - middle) ** 2)) / differences.length);
  return { ratio: Math.exp(middle) - 1, error };
}

const percent = ({ ratio, error }) =>
  `${ratio < 0 ? "" : "+"}${(100 * ratio).toFixed(3)}% ± ${(100 * error).toFixed(3)}%`;

/** Resolves with the log-probabilities of all tokens by each contender; llama.cpp takes minutes for a thousand. */
export async function perplexities(python, file, windows, withLlama = false) {
  const found = {
    "transformers, float32": await reference(python, file, windows),
    "tritonode, float32": await ours(file, "float32", windows),
    "tritonode, bfloat16": await ours(file, "bfloat16", windows),
    ...(withLlama ? { "llama.cpp": await llamaCpp(file, windows) } : {}),
  };
  return Object.fromEntries(Object.entries(found).map(([name, each]) => [name, each.flat()]));
}

/** The table's lines. */
export function perplexityTable(found) {
  const [truth, llama] = [found["transformers, float32"], found["llama.cpp"]];
  return table(
    [`${truth.length} tokens`, "perplexity", "against dequantised float32", "against llama.cpp"],
    Object.entries(found).map(([name, values]) => [
      name,
      Math.exp(-mean(values)).toFixed(4),
      values === truth ? "" : percent(against(values, truth)),
      values === llama || llama === undefined ? "" : percent(against(values, llama)),
    ]),
  );
}

if (process.argv[1] === import.meta.filename) {
  main(async () => {
    const { values } = readArguments(
      import.meta.filename,
      {
        windows: { type: "string", default: "6" },
        file: { type: "string" },
        llama: { type: "boolean", default: false },
      },
      { check: ({ values }) => checkCounts(values, "windows") },
    );
    const { python, files } = await prepareLinear();
    const file = values.file ?? files.q4_1;
    const found = await perplexities(python, file, files.windows.slice(0, Number(values.windows)), values.llama);
    console.log(perplexityTable(found).join("\n"));
    process.exit(0);
  });
}
