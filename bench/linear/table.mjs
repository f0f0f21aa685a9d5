// `npm run bench:linear`: weights of 16, 8 and 4 bits on this machine's CPU, beside node-llama-cpp on the same files, as
// one table. Some 12 minutes on two idle cores; nothing else may run on the machine meanwhile.
//
//   npm run bench:linear -- [--rounds 5] [--only smollm2,q8,1b,3b,exact,perplexity] [--out FILE.md]
//
// Contenders of a section are loaded together and take turns in every round, so that a machine's drift meets all of them;
// figures are medians, ratios are medians of ratios within a round. The machine's read bandwidth is that of a plain sum,
// measured before and after the first section. The files of the two large models (2.5 GB) are removed at the end.
import { rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checkCounts, checkName, readArguments } from "../../scripts/arguments.mjs";
import { main, say } from "../../scripts/steps.mjs";
import { median } from "../lib/measure.mjs";
import { PeerProcess } from "../lib/peer.mjs";
import { memoryMiB, tree } from "../lib/processes.mjs";
import { batch, pause } from "../lib/rounds.mjs";
import { table } from "../lib/table.mjs";
import { equalInBatch } from "./exact.mjs";
import { perplexities, perplexityTable } from "./perplexity.mjs";
import { machine, prepareLinear } from "./prepare.mjs";

const SECTIONS = ["smollm2", "q8", "1b", "3b", "exact", "perplexity"];

const { values } = readArguments(
  import.meta.filename,
  {
    rounds: { type: "string", default: "5" },
    only: { type: "string", default: SECTIONS.join(",") },
    out: { type: "string" },
  },
  {
    check({ values }) {
      for (const name of values.only.split(",")) checkName("section", name, SECTIONS);
      checkCounts(values, "rounds");
    },
  },
);
const rounds = Number(values.rounds);
const began = performance.now();

const ENGINE = {
  enforce_eager: true,
  dtype: "bfloat16",
  max_model_len: 1280,
  max_num_seqs: 16,
  kv_cache_memory_bytes: 512 << 20,
};
const LORA = { max_loras: 4, max_cpu_loras: 4, max_lora_rank: 16 };
const FOUR = ["adapter-0", "adapter-1", "adapter-2", "adapter-3"];

/** Tokens a second of one stream after its first token. */
const decoding = ({ tokens, totalMs, firstMs }) => (1000 * (tokens - 1)) / (totalMs.p50 - firstMs.p50);
const rate = ({ tokens, seconds }) => tokens / seconds;
const untilFirst = ({ firstMs }) => firstMs.p50;

/** Workloads: how a round's requests are made, and what is read off. */
const WORK = {
  one: { requests: (round) => batch(1, 64, round), figure: decoding },
  sixteen: { requests: (round) => batch(16, 64, round), figure: rate },
  prompt: {
    requests: (round, prompts) => [{ prompt: prompts[round % prompts.length], tokens: 1 }],
    figure: untilFirst,
  },
  oneAdapter: { requests: (round) => batch(1, 64, round, ["adapter-0"]), figure: decoding },
  sixteenAdapters: { requests: (round) => batch(16, 64, round, FOUR), figure: rate },
};

/**
 * Loads contenders, `{ name: { peer, config } }`, and runs each one's workloads, `{ name: [workload, …] }`, in rounds;
 * the first warms up. Resolves with `figures[workload][name]`, a list with a figure for each round, and each one's memory.
 */
async function section(title, python, contenders, work, prompts, count = rounds) {
  say(`${title} (${((performance.now() - began) / 60_000).toFixed(1)} min)`);
  const running = [];
  const figures = {};
  const memory = {};
  try {
    for (const [name, { peer, config }] of Object.entries(contenders)) {
      const process = new PeerProcess(peer, python);
      running.push([name, process]);
      await process.start(config);
    }
    for (let round = 0; round <= count; round++) {
      const from = round % running.length;
      for (const [name, process] of [...running.slice(from), ...running.slice(0, from)]) {
        for (const workload of work[name]) {
          const { requests, figure } = WORK[workload];
          const result = await process.run(requests(round, prompts));
          figures[workload] ??= {};
          figures[workload][name] ??= [];
          if (round > 0) figures[workload][name].push(figure(result));
          // An engine's threads look for work for half a second after its last step.
          await pause(700);
        }
      }
    }
    for (const [name, process] of running) memory[name] = memoryMiB(tree(process.pid));
  } finally {
    for (const [, process] of running) await process.stop();
  }
  return { figures, memory };
}

/** Medians over the rounds: of a figure, and of its ratio to another contender's in the same round. */
const medianOf = (figures) => median(figures);
const ratioOf = (figures, others) => median(figures.map((figure, round) => figure / others[round]));
const speed = (figures) => medianOf(figures).toFixed(medianOf(figures) < 20 ? 1 : 0);
const percent = (share) => `${(100 * share).toFixed(0)}%`;

const ours = (model, more = {}, config = {}) => ({
  peer: "tritonode",
  config: { model, engine: { ...ENGINE, ...more }, ...config },
});
const theirs = (model) => ({ peer: "node-llama-cpp", config: { model, engine: ENGINE } });

main(async () => {
  const wanted = values.only.split(",");
  const { python, smollm2, files } = await prepareLinear({ large: wanted.some((name) => /^\db$/.test(name)) });
  const { bandwidth, processor } = await machine(python);
  const bandwidths = [bandwidth];
  const rows = [];
  const notes = [];
  const { prompts } = files;

  const sections = {
    async smollm2() {
      const contenders = {
        bf16: ours(smollm2),
        q4: ours(files.q4_1),
        adapters: ours(files.q4_1, LORA, { loras: files.adapters }),
        llama: theirs(files.q4_1),
      };
      const usual = ["one", "sixteen", "prompt"];
      const { figures } = await section(
        "SmolLM2-135M, bf16 and Q4_1",
        python,
        contenders,
        { bf16: usual, q4: usual, llama: usual, adapters: ["one", "oneAdapter", "sixteen", "sixteenAdapters"] },
        prompts,
      );
      bandwidths.push((await machine(python)).bandwidth);
      const read = Math.max(...bandwidths);
      const weights = statSync(join(smollm2, "model.safetensors")).size;
      const { one, sixteen, prompt } = figures;
      rows.push(
        [
          "bf16, 1 stream, share of (bytes of weights / read bandwidth)",
          `${percent((weights / read) * medianOf(one.bf16))} (${speed(one.bf16)} tokens/s)`,
          "75%",
        ],
        ["bf16, 16 streams, tokens/s", speed(sixteen.bf16), ""],
        [
          "Q4_1, 1 stream, against node-llama-cpp",
          `${ratioOf(one.q4, one.llama).toFixed(2)} (${speed(one.q4)} and ${speed(one.llama)} tokens/s)`,
          "1.0",
        ],
        [
          "Q4_1, 16 streams, against node-llama-cpp",
          `${ratioOf(sixteen.q4, sixteen.llama).toFixed(2)} (${speed(sixteen.q4)} and ${speed(sixteen.llama)} tokens/s)`,
          "4",
        ],
        [
          "Q4_1, prompt of 1,000 tokens, quicker than node-llama-cpp",
          `${ratioOf(prompt.llama, prompt.q4).toFixed(2)} times (${speed(prompt.q4)} and ${speed(prompt.llama)} ms)`,
          "4 times",
        ],
        [
          "the same, slower than our bf16",
          `${ratioOf(prompt.q4, prompt.bf16).toFixed(2)} times (bf16: ${speed(prompt.bf16)} ms)`,
          "1.1 times at most",
        ],
        [
          "Q4_1, 1 stream with an adapter (rank 16, 7 modules), of the same base",
          `${percent(ratioOf(figures.oneAdapter.adapters, one.adapters))} (${speed(figures.oneAdapter.adapters)} of ${speed(one.adapters)} tokens/s)`,
          "92%",
        ],
        [
          "Q4_1, 16 streams with 4 adapters, of the same base",
          `${percent(ratioOf(figures.sixteenAdapters.adapters, sixteen.adapters))} (${speed(figures.sixteenAdapters.adapters)} of ${speed(sixteen.adapters)} tokens/s)`,
          "85%",
        ],
      );
    },
    async q8() {
      const { figures } = await section(
        "SmolLM2-135M, Q8_0",
        python,
        { q8: ours(files.q8_0), llama: theirs(files.q8_0) },
        { q8: ["one", "sixteen"], llama: ["one", "sixteen"] },
        prompts,
      );
      for (const [name, figure, aim] of [
        ["1 stream", figures.one, "1.0"],
        ["16 streams", figures.sixteen, ""],
      ]) {
        rows.push([
          `Q8_0, ${name}, against node-llama-cpp`,
          `${ratioOf(figure.q8, figure.llama).toFixed(2)} (${speed(figure.q8)} and ${speed(figure.llama)} tokens/s)`,
          aim,
        ]);
      }
    },
    "1b": () => large("llama-1.1b", "LLaMA 3.2's 1B shape, Q4_1", true),
    "3b": () => large("llama-3b", "LLaMA 3.2's 3B shape, Q4_1", false),
    async exact() {
      for (const [name, model] of [
        ["bf16", smollm2],
        ["Q4_1", files.q4_1],
      ]) {
        say(`alone and in a batch, ${name} (${((performance.now() - began) / 60_000).toFixed(1)} min)`);
        const { texts, logprobs, requests } = await equalInBatch(model, { ...ENGINE, ...LORA }, files.adapters);
        rows.push([
          `${name}, texts and log-probabilities alone against in a batch (base and adapters)`,
          `${texts} of ${requests}; ${logprobs} of ${requests} to the bit`,
          "24 of 24; 24 of 24",
        ]);
      }
    },
    async perplexity() {
      say(`perplexity (${((performance.now() - began) / 60_000).toFixed(1)} min)`);
      notes.push("", "SmolLM2 Q4_1, aimed at: equal within 0.1%.", "");
      notes.push(...perplexityTable(await perplexities(python, files.q4_1, files.windows.slice(0, 6))));
    },
  };

  /** A larger model alone with its peer; fewer rounds, because each token takes a tenth of a second. */
  async function large(name, title, withMemory) {
    const model = files[name];
    const { figures, memory } = await section(
      title,
      python,
      { ours: ours(model), llama: theirs(model) },
      { ours: ["one"], llama: ["one"] },
      prompts,
      Math.min(3, rounds),
    );
    const { one } = figures;
    rows.push([
      `${title}, 1 stream, against node-llama-cpp`,
      `${ratioOf(one.ours, one.llama).toFixed(2)} (${speed(one.ours)} and ${speed(one.llama)} tokens/s)`,
      "1.0",
    ]);
    if (!withMemory) return;
    const weights = statSync(model).size / 1e6;
    const whole = memory.ours * 1.048576;
    rows.push([
      "the same, resident memory of the tree above the bytes of the weights",
      `${(whole - weights).toFixed(0)} MB (${whole.toFixed(0)} less ${weights.toFixed(0)}; node-llama-cpp ${(memory.llama * 1.048576 - weights).toFixed(0)} MB)`,
      "700 MB",
    ]);
  }

  for (const name of wanted) {
    try {
      await sections[name]();
    } catch (error) {
      // One section's failure must not take the others' figures with it.
      process.exitCode = 1;
      notes.push("", `${name} failed: ${error.message}`);
    }
  }
  for (const name of ["llama-1.1b", "llama-3b"]) {
    if (files[name] !== undefined) rmSync(files[name], { force: true });
  }
  const date = new Date().toISOString().slice(0, 10);
  const read = bandwidths.map((each) => (each / 1e9).toFixed(0)).join(" and ");
  const lines = [
    `${processor}; a plain sum reads ${read} GB/s. ${date}, ${rounds} rounds.`,
    "",
    ...table(["", "measured", "aimed at"], rows),
    ...notes,
  ];
  console.log(lines.join("\n"));
  if (values.out !== undefined) writeFileSync(values.out, `${lines.join("\n")}\n`);
});
