// `npm run bench:guard`: a few minutes that say whether something became slower. Ratios to raw vLLM of the same rounds, and
// costs that hardly depend on the machine; each limit leaves some 15% to the figure that docs/benchmarks.md has, because
// rounds of a shared machine differ by about that. Nothing else may run meanwhile. Exits with 1 if a limit is passed.
import { main, say } from "../scripts/steps.mjs";
import { prepare } from "./lib/models.mjs";
import { grouped, medianOf, rate, ratio } from "./lib/report.mjs";
import { interleaved, streamsOf, withPeers } from "./lib/rounds.mjs";
import { table } from "./lib/table.mjs";

const ROUNDS = 5;

const against = (peer) => ({ unit: "%", of: (results) => 100 * ratio(results, "tritonode", peer, rate) });
const later = {
  unit: "ms",
  of: (results) => {
    const first = (peer) => medianOf(results.get(peer), ({ firstMs }) => firstMs.p50);
    return first("tritonode") - first("raw");
  },
};
const cpu = {
  unit: "us",
  of: (results) => medianOf(results.get("tritonode"), ({ cpuSeconds, tokens }) => (1e6 * cpuSeconds) / tokens),
};

const guarded = [
  {
    config: "tiny",
    workloads: [1, 64].map((streams) => ({ name: streamsOf(streams), streams, tokens: 64 })),
    limits: [
      { what: "tokens/s of raw vLLM's", workload: "1 stream", figure: against("raw"), least: 80 },
      { what: "tokens/s of raw vLLM's", workload: "64 streams", figure: against("raw"), least: 73 },
      { what: "first token later than raw vLLM's", workload: "1 stream", figure: later, most: 3.5 },
      { what: "Node's CPU per token", workload: "64 streams", figure: cpu, most: 17 },
    ],
  },
  {
    config: "adapters",
    workloads: [{ name: "15 streams, mixed", streams: 15, tokens: 32, loras: [undefined, "alpaca", "bactrian"] }],
    // vLLM's own LoRA operators on a CPU take three times as long.
    limits: [{ what: "tokens/s of raw vLLM's", workload: "15 streams, mixed", figure: against("raw"), least: 250 }],
  },
];

main(async () => {
  const configs = await prepare();
  const rows = [];
  let passed = true;
  for (const { config, workloads, limits } of guarded) {
    say(`guard: ${config}`);
    const results = await withPeers(["raw", "tritonode"], configs[config], (running) =>
      interleaved(running, workloads, ROUNDS),
    );
    const byWorkload = grouped(results);
    for (const {
      what,
      workload,
      figure,
      least = Number.NEGATIVE_INFINITY,
      most = Number.POSITIVE_INFINITY,
    } of limits) {
      const value = figure.of(byWorkload.get(workload));
      const good = value >= least && value <= most;
      passed &&= good;
      const limit = Number.isFinite(least) ? `at least ${least}` : `at most ${most}`;
      rows.push([`${config}, ${workload}`, what, `${value.toFixed(1)} ${figure.unit}`, limit, good ? "good" : "WORSE"]);
    }
  }
  console.log(table(["workload", "what", "now", "limit", ""], rows).join("\n"));
  if (!passed) process.exitCode = 1;
});
