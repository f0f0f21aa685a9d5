// What one batch of concurrent streams looks like from the caller's side, for any peer.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { residentMiB } from "./processes.mjs";

/** The value below which `share` (0 to 1) of a list lies; NaN for an empty list. */
export function percentile(list, share) {
  const sorted = [...list].sort((a, b) => a - b);
  return sorted.length === 0 ? Number.NaN : sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
}

export const median = (list) => percentile(list, 0.5);

/**
 * Sends all requests at once and reads every stream to its end.
 *
 * @param generate a peer's `generate`
 * @param requests `[{ prompt, tokens, lora }]`
 * @returns times in ms, `seconds` from the first submission to the last piece, `cpuSeconds` and memory of this process
 */
export async function runBatch(generate, requests) {
  const first = [];
  const total = [];
  const gaps = [];
  let failed = 0;
  let error;
  let pieces = 0;
  let memory = residentMiB();
  const sampler = setInterval(() => {
    memory = Math.max(memory, residentMiB());
  }, 250);
  // Seldom enough not to be a load of its own: at 1 ms it took 4% of a core.
  const resolution = 10;
  const delay = monitorEventLoopDelay({ resolution });
  delay.enable();
  const cpu = process.cpuUsage();
  const began = performance.now();
  let ended = began;
  await Promise.all(
    requests.map(async (request, index) => {
      let last;
      try {
        await generate(request, () => {
          const now = performance.now();
          if (last === undefined) first[index] = now - began;
          else gaps.push(now - last);
          last = now;
          pieces++;
        });
        total[index] = last - began;
        ended = Math.max(ended, last);
      } catch (thrown) {
        failed++;
        error ??= String(thrown);
      }
    }),
  );
  const { user, system } = process.cpuUsage(cpu);
  delay.disable();
  clearInterval(sampler);
  const seconds = (ended - began) / 1000;
  return {
    seconds,
    tokens: requests.reduce((sum, { tokens }) => sum + tokens, 0),
    pieces,
    failed,
    error,
    firstMs: { p50: percentile(first, 0.5), p99: percentile(first, 0.99) },
    totalMs: { p50: percentile(total, 0.5), p99: percentile(total, 0.99) },
    gapMs: { p50: percentile(gaps, 0.5), p99: percentile(gaps, 0.99) },
    orderCorrelation: rankCorrelation(first),
    cpuSeconds: (user + system) / 1e6,
    // The monitor counts its own period.
    loopDelayMs: {
      p99: Math.max(0, delay.percentile(99) / 1e6 - resolution),
      max: Math.max(0, delay.max / 1e6 - resolution),
    },
    memoryMiB: memory,
  };
}

/** Spearman's rank correlation of the values with their positions: 1 where later ones are always larger. */
function rankCorrelation(values) {
  const order = values.map((value, index) => [value, index]).sort(([a], [b]) => a - b);
  const count = order.length;
  const squares = order.reduce((sum, [, index], rank) => sum + (index - rank) ** 2, 0);
  return count < 2 ? 1 : 1 - (6 * squares) / (count * (count ** 2 - 1));
}
