// `npm run bench`: this package beside what people use now, on the same weights, prompts and greedy sampling.
//
//   npm run bench -- [--only NAME,…] [--peers NAME,…] [--rounds 5] [--out docs/benchmarks]
//
// Every peer is a process of its own and stays loaded while a section runs; in each round every peer runs the same batch,
// and the order turns from round to round, so that a machine's drift meets all of them. What counts are ratios within a
// round, and their medians. Nothing else may run on the machine meanwhile.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { join } from "node:path";
import { checkCounts, checkName, readArguments } from "../scripts/arguments.mjs";
import { main, root, say } from "../scripts/steps.mjs";
import { prepare } from "./lib/models.mjs";
import { peers } from "./lib/peer.mjs";
import { cpuSeconds, memoryMiB, tree } from "./lib/processes.mjs";
import { report } from "./lib/report.mjs";
import { batch, interleaved, pause, streamsOf, withPeers } from "./lib/rounds.mjs";

const SECTIONS = ["tiny", "smollm2", "adapters", "guest", "burst", "start"];

const { values } = readArguments(
  import.meta.filename,
  {
    only: { type: "string", default: SECTIONS.join(",") },
    peers: { type: "string", default: Object.keys(peers).join(",") },
    rounds: { type: "string", default: "5" },
    out: { type: "string", default: join(root, "docs/benchmarks") },
  },
  {
    check({ values }) {
      for (const name of values.only.split(",")) checkName("section", name, SECTIONS);
      for (const name of values.peers.split(",")) checkName("peer", name, peers);
      checkCounts(values, "rounds");
    },
  },
);
const rounds = Number(values.rounds);
const wanted = values.peers.split(",");

/** CPU of each peer's whole tree while nothing is asked of it, in cores, and its memory. */
async function atRest(running, seconds = 10) {
  // A model that has been idle for two seconds builds its HTTP application once, which takes the processor.
  await pause(10_000);
  const before = running.map((peer) => cpuSeconds(tree(peer.pid)));
  await pause(seconds * 1000);
  return running.map((peer, index) => {
    const pids = tree(peer.pid);
    return {
      peer: peer.name,
      cores: (cpuSeconds(pids) - before[index]) / seconds,
      processes: pids.length,
      memoryMiB: memoryMiB(pids),
    };
  });
}

main(async () => {
  const { tiny, smollm2, adapters, versions } = await prepare();
  const having = (names) => names.filter((name) => wanted.includes(name));
  const all = having(Object.keys(peers));
  const onlyVllm = all.filter((name) => name !== "node-llama-cpp");
  // Six engines of a real model are what 24 GiB hold; HTTP stands for this peer where the engine counts for most.
  const fewer = all.filter((name) => name !== "grpc-upstream");

  const sections = {
    /** Overhead laid bare: the model takes almost no time. */
    tiny: () =>
      withPeers(onlyVllm, tiny, async (running) => ({
        rest: await atRest(running),
        results: await interleaved(
          running,
          [1, 16, 64, 256].map((streams) => ({ name: streamsOf(streams), streams, tokens: 64 })),
          rounds,
        ),
        firstToken: await interleaved(running, [{ name: "1 stream", streams: 1, tokens: 4 }], 5 * rounds),
      })),
    smollm2: () =>
      withPeers(fewer, smollm2, async (running) => ({
        results: await interleaved(
          running,
          [1, 16, 64, 256].map((streams) => ({ name: streamsOf(streams), streams, tokens: streams > 16 ? 32 : 64 })),
          rounds,
        ),
      })),
    adapters: () =>
      withPeers(fewer, adapters, async (running) => ({
        results: await interleaved(
          running,
          [
            { name: "1 stream, alpaca", streams: 1, tokens: 64, loras: ["alpaca"] },
            {
              name: "15 streams, base + 2 adapters",
              streams: 15,
              tokens: 64,
              loras: [undefined, "alpaca", "bactrian"],
            },
          ],
          rounds,
        ),
      })),
    /** What the caller's process, and a caller who is busy himself, get to feel. */
    guest: () =>
      withPeers(having(["raw", "tritonode"]), smollm2, async (running) => {
        const work = [{ name: "idle host", streams: 16, tokens: 32 }];
        const idle = await interleaved(running, work, rounds);
        const burner = spawn(process.execPath, ["-e", "for (;;) Math.random();"], { stdio: "ignore" });
        let busy;
        try {
          busy = await interleaved(running, [{ ...work[0], name: "busy host" }], rounds);
        } finally {
          burner.kill("SIGKILL");
        }
        return { results: [...idle, ...busy] };
      }),
    burst: () =>
      withPeers(having(["raw", "tritonode"]), tiny, async (running) => ({
        results: await interleaved(running, [{ name: "1,000 at once", streams: 1000, tokens: 16 }], 3),
      })),
    /** From the start of a process to the first token, with two adapters. */
    start: async () => {
      const names = having(["raw", "tritonode", "http-upstream", "vllm-serve"]);
      const results = [];
      for (let round = 0; round <= Math.min(2, rounds); round++) {
        for (const name of names) {
          const seconds = await withPeers([name], adapters, async ([peer]) => {
            await peer.run(batch(1, 2, round, ["alpaca"]));
            return (performance.now() - peer.began) / 1000;
          });
          if (round > 0) results.push({ workload: "start", round, peer: name, seconds });
          console.log(`  ${name}: ${seconds.toFixed(1)} s`);
        }
      }
      return { results };
    },
  };

  mkdirSync(values.out, { recursive: true });
  const file = join(values.out, "results.json");
  const record = existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : {};
  record.machine = {
    cpu: cpus()[0].model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    node: process.version,
    ...versions,
  };
  for (const name of values.only.split(",")) {
    say(`bench: ${name}`);
    const date = new Date().toISOString().slice(0, 10);
    record[name] = { date, rounds, ...(await sections[name]()) };
    // After each section, so that a run that is stopped has not been for nothing.
    writeFileSync(file, `${JSON.stringify(record)}\n`);
  }
  report(record, values.out);
});
