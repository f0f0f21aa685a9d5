// Where each second of a start goes, out of the rows of bench/start.mjs, for its chart.

const ORDER = ["start", "import", "check-adapters", "load-model", "load-adapter", "warm-up", "ready"];
const NAMES = {
  start: "process, Triton, Python",
  import: "imports",
  "check-adapters": "adapters are checked",
  "load-model": "engine, weights, KV cache",
  "load-adapter": "adapters are loaded",
  "warm-up": "warm-up",
  ready: "first token",
};

/** Seconds of each step: of raw vLLM what its driver says, of this package the steps that `onProgress` got. */
function secondsOf({ seconds, fromLoad = seconds, imports, engine, phases }) {
  if (phases === undefined) {
    // Its adapters are loaded with their first request.
    const known = engine === undefined ? {} : { import: imports, "load-model": engine };
    const rest = seconds - Object.values(known).reduce((sum, each) => sum + each, 0);
    return engine === undefined ? { start: rest } : { ...known, ready: rest };
  }
  const began = new Map();
  for (const [phase, , at] of phases) if (!began.has(phase)) began.set(phase, at / 1000);
  const times = {};
  let at = 0;
  let step = "start";
  for (const next of ORDER) {
    if (!began.has(next) || next === "start") continue;
    times[step] = began.get(next) - at;
    at = began.get(next);
    step = next;
  }
  times[step] = Math.max(0, fromLoad - at);
  // A process has a time before it calls `load`.
  times.start += seconds - fromLoad;
  return times;
}

/** The chart's data: a bar for each row. */
export function steps(rows) {
  const shown = rows.filter(({ what }) => what !== "dispose, idle");
  return {
    title: "Seconds to the first token",
    groups: shown.map(({ model, what }) => `${model}: ${what}`),
    series: ORDER.map((phase) => ({
      name: NAMES[phase],
      values: shown.map((row) => secondsOf(row)[phase] ?? 0),
    })),
  };
}
