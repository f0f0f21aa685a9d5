// Rounds of the same batches, run by every peer in turn.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../scripts/steps.mjs";
import { PeerProcess } from "./peer.mjs";

const words = readFileSync(join(root, "README.md"), "utf8").match(/[a-z]{3,}/g);

/** Prompts of about 16 tokens; no two of a run begin alike, so that no cache of prefixes helps anybody. */
function prompts(count, seed) {
  return Array.from({ length: count }, (_, index) => {
    const at = (seed * 9973 + index * 31) % (words.length - 12);
    return `${seed * 1000 + index}: ${words.slice(at, at + 10).join(" ")}`;
  });
}

/** Requests for a peer's `run`; adapters are handed out in turn. */
export const batch = (streams, tokens, seed, loras = [undefined]) =>
  prompts(streams, seed).map((prompt, index) => ({ prompt, tokens, lora: loras[index % loras.length] }));

export const streamsOf = (count) => `${count} ${count === 1 ? "stream" : "streams"}`;

export const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Starts peers one after the other, runs the body, and ends them whatever happens. */
export async function withPeers(names, config, body) {
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
export async function interleaved(running, workloads, count) {
  const results = [];
  for (let round = 0; round <= count; round++) {
    for (const { name, streams, tokens, loras } of workloads) {
      const turn = [...running.slice(round % running.length), ...running.slice(0, round % running.length)];
      for (const peer of turn) {
        const requests = batch(streams, round === 0 ? Math.min(8, tokens) : tokens, round, loras);
        const result = await peer.run(requests);
        if (round > 0) results.push({ workload: name, round, peer: peer.name, ...result });
        // An engine's OpenMP threads look for work for half a second after its last step (libgomp's default), and the
        // next peer would have to do without that core.
        await pause(1000);
      }
    }
    process.stdout.write(`  round ${round} of ${count}\n`);
  }
  return results;
}
