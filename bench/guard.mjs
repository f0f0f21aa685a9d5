// `npm run bench:guard`: a few minutes that say whether something became slower. Every figure is a ratio within the run, so
// that the limits hold on any processor: to raw vLLM of the same rounds, or to what Node needs at the least to read as
// many streams from another process (lib/bare.mjs). Each limit leaves some 15% or more to what was measured, because
// rounds of a shared machine differ by about that. Nothing else may run meanwhile. Exits with 1 if a limit is passed.
// `npm run bench:guard -- tiny` (or adapters) runs a part.
import { checkName, readArguments } from "../scripts/arguments.mjs";
import { main, say } from "../scripts/steps.mjs";
import { bareBatch } from "./lib/bare.mjs";
import { prepare } from "./lib/models.mjs";
import { grouped, medianOf, rate, ratio } from "./lib/report.mjs";
import { interleaved, streamsOf, withPeers } from "./lib/rounds.mjs";
import { table } from "./lib/table.mjs";

const ROUNDS = 5;

const against = (peer) => ({ unit: "%", of: (results) => 100 * ratio(results, "tritonode", peer, rate) });
const later = {
  unit: "steps",
  of: (results) => {
    const first = (peer) => medianOf(results.get(peer), ({ firstMs }) => firstMs.p50);
    const step = medianOf(results.get("raw"), ({ gapMs }) => gapMs.p50);
    return (first("tritonode") - first("raw")) / step;
  },
};
const cpuPerToken = (results) => medianOf(results, ({ cpuSeconds, tokens }) => (1e6 * cpuSeconds) / tokens);
const cpu = { unit: "x", of: (results, bare) => cpuPerToken(results.get("tritonode")) / cpuPerToken(bare) };

/** The same streams without an engine, as many rounds; the first one warms up here as well. */
async function bareRounds({ streams, tokens }) {
  const results = [];
  for (let round = 0; round <= ROUNDS; round++) results.push(await bareBatch(streams, round === 0 ? 8 : tokens));
  return results.slice(1);
}

const guarded = [
  {
    config: "tiny",
    workloads: [1, 64].map((streams) => ({ name: streamsOf(streams), streams, tokens: 64 })),
    limits: [
      { what: "tokens/s of raw vLLM's", workload: "1 stream", figure: against("raw"), least: 80 },
      { what: "tokens/s of raw vLLM's", workload: "64 streams", figure: against("raw"), least: 73 },
      { what: "first token later than raw vLLM's, in its steps", workload: "1 stream", figure: later, most: 3 },
      { what: "Node's CPU per token, of bare streams'", workload: "64 streams", figure: cpu, most: 7 },
    ],
  },
  {
    config: "adapters",
    workloads: [{ name: "15 streams, mixed", streams: 15, tokens: 32, loras: [undefined, "alpaca", "bactrian"] }],
    // vLLM's own LoRA operators on a CPU take three times as long.
    limits: [{ what: "tokens/s of raw vLLM's", workload: "15 streams, mixed", figure: against("raw"), least: 250 }],
  },
];

const { positionals: only } = readArguments(
  import.meta.filename,
  {},
  {
    allowPositionals: true,
    check({ positionals }) {
      for (const name of positionals)
        checkName(
          "part",
          name,
          guarded.map(({ config }) => config),
        );
    },
  },
);

main(async () => {
  const configs = await prepare();
  const rows = [];
  let passed = true;
  for (const { config, workloads, limits } of guarded.filter(
    ({ config }) => only.length === 0 || only.includes(config),
  )) {
    say(`guard: ${config}`);
    const results = await withPeers(["raw", "tritonode"], configs[config], (running) =>
      interleaved(running, workloads, ROUNDS),
    );
    const byWorkload = grouped(results);
    const bare = new Map();
    for (const workload of workloads) bare.set(workload.name, await bareRounds(workload));
    for (const {
      what,
      workload,
      figure,
      least = Number.NEGATIVE_INFINITY,
      most = Number.POSITIVE_INFINITY,
    } of limits) {
      const value = figure.of(byWorkload.get(workload), bare.get(workload));
      const good = value >= least && value <= most;
      passed &&= good;
      const limit = Number.isFinite(least) ? `at least ${least}` : `at most ${most}`;
      rows.push([`${config}, ${workload}`, what, `${value.toFixed(1)} ${figure.unit}`, limit, good ? "good" : "WORSE"]);
    }
  }
  console.log(table(["workload", "what", "now", "limit", ""], rows).join("\n"));
  if (!passed) process.exitCode = 1;
});
