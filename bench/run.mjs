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
import { parseArgs } from "node:util";
import { build, dependencies, main, models, root, runtime, say } from "../scripts/steps.mjs";
import { PeerProcess, peers } from "./lib/peer.mjs";
import { cpuSeconds, memoryMiB, tree } from "./lib/processes.mjs";
import { report } from "./lib/report.mjs";

const { values } = parseArgs({
  options: {
    only: { type: "string", default: "tiny,smollm2,adapters,guest,burst,start" },
    peers: { type: "string", default: Object.keys(peers).join(",") },
    rounds: { type: "string", default: "5" },
    out: { type: "string", default: join(root, "docs/benchmarks") },
  },
});
const rounds = Number(values.rounds);
const wanted = values.peers.split(",");
const words = readFileSync(join(root, "README.md"), "utf8").match(/[a-z]{3,}/g);

/** Prompts of about 16 tokens; no two of a run begin alike, so that no cache of prefixes helps anybody. */
function prompts(count, seed) {
  return Array.from({ length: count }, (_, index) => {
    const at = (seed * 9973 + index * 31) % (words.length - 12);
    return `${seed * 1000 + index}: ${words.slice(at, at + 10).join(" ")}`;
  });
}

const batch = (streams, tokens, seed, loras = [undefined]) =>
  prompts(streams, seed).map((prompt, index) => ({ prompt, tokens, lora: loras[index % loras.length] }));

const streamsOf = (count) => `${count} ${count === 1 ? "stream" : "streams"}`;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Starts peers one after the other, runs the body, and ends them whatever happens. */
async function withPeers(names, config, body) {
  const started = [];
  try {
    for (const name of names) {
      console.log(`  starting ${name}`);
      const peer = new PeerProcess(name, config.python);
      started.push(peer);
      await peer.start(config);
    }
    return await body(started);
  } finally {
    for (const peer of started) {
      await peer.stop().catch((error) => {
        console.error(error.message);
        process.exitCode = 1;
      });
    }
  }
}

/** Runs workloads in turns; the first round warms up. Resolves with a list of results for each workload and peer. */
async function interleaved(running, workloads, count = rounds) {
  const results = [];
  for (let round = 0; round <= count; round++) {
    for (const { name, streams, tokens, loras } of workloads) {
      const turn = [...running.slice(round % running.length), ...running.slice(0, round % running.length)];
      for (const peer of turn) {
        const requests = batch(streams, round === 0 ? Math.min(8, tokens) : tokens, round, loras);
        const result = await peer.run(requests);
        if (round > 0) results.push({ workload: name, round, peer: peer.name, ...result });
        await pause(50);
      }
    }
    process.stdout.write(`  round ${round} of ${count}\n`);
  }
  return results;
}

/** CPU of each peer's whole tree while nothing is asked of it, in cores, and its memory. */
async function atRest(running, seconds = 10) {
  // A model that has been idle for two seconds builds its HTTP door once; that is no rest.
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
  await dependencies();
  await dependencies("bench");
  await build();
  const { python, triton, vllmVersion } = await runtime(["test", "demo"]);
  const { fixtures, workspace } = await models(python);

  const common = { enforce_eager: true, max_model_len: 512, max_num_seqs: 256 };
  const tiny = {
    python,
    model: JSON.parse(readFileSync(join(fixtures, "fixtures.json"), "utf8")).models.tiny,
    engine: { ...common, dtype: "float32", kv_cache_memory_bytes: 256 << 20 },
  };
  const smollm2 = {
    python,
    model: join(workspace, "weights/backbone/smollm2-135m-instruct"),
    engine: { ...common, dtype: "bfloat16", kv_cache_memory_bytes: 1 << 30 },
  };
  const loras = Object.fromEntries(
    ["alpaca", "bactrian"].map((name) => [name, join(workspace, "weights/loras", name)]),
  );
  const adapters = {
    ...smollm2,
    loras,
    engine: { ...smollm2.engine, max_loras: 4, max_cpu_loras: 8, max_lora_rank: 16 },
  };
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
        ),
        firstToken: await interleaved(running, [{ name: "1 stream", streams: 1, tokens: 4 }], 5 * rounds),
      })),
    smollm2: () =>
      withPeers(fewer, smollm2, async (running) => ({
        results: await interleaved(
          running,
          [1, 16, 64, 256].map((streams) => ({ name: streamsOf(streams), streams, tokens: streams > 16 ? 32 : 64 })),
        ),
      })),
    adapters: () =>
      withPeers(fewer, adapters, async (running) => ({
        results: await interleaved(running, [
          { name: "1 stream, alpaca", streams: 1, tokens: 64, loras: ["alpaca"] },
          { name: "15 streams, base + 2 adapters", streams: 15, tokens: 64, loras: [undefined, "alpaca", "bactrian"] },
        ]),
      })),
    /** What the caller's process, and a caller who is busy himself, get to feel. */
    guest: () =>
      withPeers(having(["raw", "tritonode"]), smollm2, async (running) => {
        const work = [{ name: "idle host", streams: 16, tokens: 32 }];
        const idle = await interleaved(running, work);
        const burner = spawn(process.execPath, ["-e", "for (;;) Math.random();"], { stdio: "ignore" });
        let busy;
        try {
          busy = await interleaved(running, [{ ...work[0], name: "busy host" }]);
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
    triton: triton.version,
    vllm: vllmVersion,
  };
  const names = values.only.split(",");
  for (const name of names) {
    if (sections[name] === undefined) throw new Error(`--only ${name}: there are ${Object.keys(sections).join(", ")}`);
  }
  for (const name of names) {
    say(`bench: ${name}`);
    const date = new Date().toISOString().slice(0, 10);
    record[name] = { date, rounds, ...(await sections[name]()) };
    // After each section, so that a run that is stopped has not been for nothing.
    writeFileSync(file, `${JSON.stringify(record)}\n`);
  }
  report(record, values.out);
});
