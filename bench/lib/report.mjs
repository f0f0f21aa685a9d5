// Tables and charts from the record of a run.
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { bars } from "./chart.mjs";
import { median } from "./measure.mjs";
import { peers } from "./peer.mjs";
import { table } from "./table.mjs";

const plain = (name) => peers[name].title.replaceAll("`", "");
const percent = (ratio) => `${(100 * ratio).toFixed(ratio < 0.1 ? 1 : 0)}%`;
/** Tokens a second of a batch. */
export const rate = (result) => result.tokens / result.seconds;

/** Results by workload, then peer. */
export function grouped(results) {
  const workloads = new Map();
  for (const result of results) {
    if (!workloads.has(result.workload)) workloads.set(result.workload, new Map());
    const of = workloads.get(result.workload);
    of.set(result.peer, [...(of.get(result.peer) ?? []), result]);
  }
  return workloads;
}

/** Median over the rounds of a figure's ratio to the same round of another peer. */
export function ratio(of, peer, other, figure) {
  const against = new Map((of.get(other) ?? []).map((result) => [result.round, figure(result)]));
  const ratios = (of.get(peer) ?? []).filter(({ round }) => against.has(round));
  return median(ratios.map((result) => figure(result) / against.get(result.round)));
}

export const medianOf = (results, figure) => median((results ?? []).map(figure));

/** The peers that a section has results of, in the order of the tables. */
const present = (section) => Object.keys(peers).filter((name) => section.results.some(({ peer }) => peer === name));

/** Throughput of each peer in tokens/s, and what tritonode reaches of it. */
function throughput(section) {
  const workloads = grouped(section.results);
  const names = present(section);
  const cell = (of, name) => {
    const speed = medianOf(of.get(name), rate).toFixed(0);
    if (name === "raw" || !of.has("raw")) return speed;
    return `${speed} (${percent(ratio(of, name, "raw", rate))})`;
  };
  return table(
    ["", ...workloads.keys()],
    names.map((name) => [
      peers[name].title,
      ...[...workloads.values()].map((of) => (of.has(name) ? cell(of, name) : "")),
    ]),
  );
}

const latency = (section) => latencies(section.results);
/** Time to the first token of one request to an idle engine. */
const firstToken = (section) => latencies(section.firstToken);

function latencies(all) {
  const rows = [];
  for (const [workload, of] of grouped(all)) {
    for (const [name, results] of of) {
      const gap = (share) => medianOf(results, ({ gapMs }) => gapMs[share]);
      rows.push([
        workload,
        peers[name].title,
        medianOf(results, ({ firstMs }) => firstMs.p50).toFixed(2),
        gap("p50").toFixed(2),
        gap("p99").toFixed(2),
        (gap("p99") / gap("p50")).toFixed(2),
        name === "raw" ? "" : medianOf(results, ({ cpuSeconds, tokens }) => (1e6 * cpuSeconds) / tokens).toFixed(1),
        name === "raw" ? "" : medianOf(results, ({ loopDelayMs }) => loopDelayMs.p99).toFixed(1),
        medianOf(results, ({ memoryMiB }) => memoryMiB).toFixed(0),
      ]);
    }
  }
  return table(
    [
      "batch",
      "",
      "first token, ms",
      "gap p50, ms",
      "gap p99, ms",
      "p99/p50",
      "caller's CPU per token, us",
      "event-loop delay p99, ms",
      "caller's memory, MiB",
    ],
    rows,
  );
}

function rest(section) {
  return table(
    ["loaded, nothing asked", "CPU, % of a core", "processes, with the caller", "memory of all, MiB"],
    section.rest.map(({ peer, cores, processes, memoryMiB }) => [
      peers[peer].title,
      (100 * cores).toFixed(1),
      processes,
      memoryMiB.toFixed(0),
    ]),
  );
}

function guest(section) {
  const workloads = grouped(section.results);
  const names = [...workloads.get("idle host").keys()];
  return table(
    ["16 streams, tokens/s", "idle host", "host burns a core", "kept"],
    names.map((name) => {
      const [idle, busy] = ["idle host", "busy host"].map((work) => medianOf(workloads.get(work).get(name), rate));
      return [peers[name].title, idle.toFixed(0), busy.toFixed(0), percent(busy / idle)];
    }),
  );
}

function burst(section) {
  const of = [...grouped(section.results).values()][0];
  return table(
    [
      "1,000 requests at once",
      "tokens/s",
      "done p50, ms",
      "done p99, ms",
      "order of first tokens",
      "caller's memory, MiB",
    ],
    [...of].map(([name, results]) => [
      peers[name].title,
      medianOf(results, rate).toFixed(0),
      medianOf(results, ({ totalMs }) => totalMs.p50).toFixed(0),
      medianOf(results, ({ totalMs }) => totalMs.p99).toFixed(0),
      name === "raw" ? "" : medianOf(results, ({ orderCorrelation }) => orderCorrelation).toFixed(3),
      medianOf(results, ({ memoryMiB }) => memoryMiB).toFixed(0),
    ]),
  );
}

function start(section) {
  const of = grouped(section.results).get("start");
  return table(
    ["process start to first token", "seconds", "tritonode is quicker by"],
    [...of].map(([name, results]) => [
      peers[name].title,
      medianOf(results, ({ seconds }) => seconds).toFixed(1),
      name === "tritonode" ? "" : ratio(of, name, "tritonode", ({ seconds }) => seconds).toFixed(2),
    ]),
  );
}

const tables = {
  tiny: [rest, throughput, latency, firstToken],
  smollm2: [throughput, latency],
  adapters: [throughput],
  guest: [guest],
  burst: [burst],
  start: [start],
};

/** Prints the tables, writes them to `tables.md`, and draws a chart of each throughput. */
export function report(record, folder) {
  const { machine } = record;
  const lines = [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB; Node ${machine.node}, Triton ${machine.triton}.`,
  ];
  for (const [name, makers] of Object.entries(tables)) {
    const section = record[name];
    if (section === undefined) continue;
    lines.push("", `## ${name} (${section.date}, ${section.rounds} rounds)`);
    for (const make of makers) {
      if ((make === rest && !section.rest) || (make === firstToken && !section.firstToken)) continue;
      lines.push("", ...make(section));
    }
    if (!makers.includes(throughput)) continue;
    const workloads = grouped(section.results);
    const names = present(section);
    const svg = bars({
      title: `${name}: tokens/s`,
      groups: [...workloads.keys()],
      series: names.map((peer) => ({
        name: plain(peer),
        values: [...workloads.values()].map((of) => (of.has(peer) ? medianOf(of.get(peer), rate) : undefined)),
      })),
    });
    writeFileSync(join(folder, `${name}.svg`), svg);
  }
  console.log(lines.join("\n"));
  writeFileSync(join(folder, "tables.md"), `# All tables\n\n${lines.join("\n")}\n`);
}
