// `npm run check:gpu`: all that has to be known of a machine with one GPU, in at most 25 minutes. Writes
// docs/benchmarks/gpu-results.json after each step, and the results in docs/benchmarks/gpu.md from it.
//
//   npm run check:gpu -- [--device cuda|cpu] [--small] [--only NAME,…] [--resume] [--minutes 25] [--out docs/benchmarks]
//
// `--device cpu --small` runs every step on the tiny model without a GPU: test/integration/check-gpu.test.ts does. What
// an interrupted run has found stays; `--only` adds to it, on the same machine and versions, and `--resume` runs the steps
// that have not passed.
import { join } from "node:path";
import { checkName, readArguments } from "./arguments.mjs";
import { configuration, machine } from "./check-gpu/machine.mjs";
import { writePage } from "./check-gpu/page.mjs";
import { chosen, runStep } from "./check-gpu/plan.mjs";
import { openRecord } from "./check-gpu/record.mjs";
import { main, root, say } from "./steps.mjs";

const { values } = readArguments(
  import.meta.filename,
  {
    device: { type: "string", default: "cuda" },
    small: { type: "boolean", default: false },
    only: { type: "string" },
    resume: { type: "boolean", default: false },
    minutes: { type: "string", default: "25" },
    out: { type: "string", default: join(root, "docs/benchmarks") },
  },
  {
    check({ values }) {
      checkName("device", values.device, ["cuda", "cpu"]);
      if (!(Number(values.minutes) > 0)) throw new Error(`--minutes ${values.minutes} is not a number above 0`);
    },
  },
);

main(async () => {
  const minutes = Number(values.minutes);
  const steps = chosen(values.only);
  const config = await configuration(values);
  const record = openRecord(values.out, await machine(config));
  // Setting the machine up is not part of the limit: it downloads gigabytes once.
  const end = performance.now() + minutes * 60_000;
  const hasPassed = ({ name }) => record.content.steps[name]?.status === "passed";
  for (const step of steps) {
    if (values.resume && hasPassed(step)) continue;
    const left = Math.floor((end - performance.now()) / 1000);
    say(`${step.name}: ${step.title}`);
    const result =
      left < 5
        ? { status: "skipped", reason: `no time left of ${minutes} minutes` }
        : await runStep(step, config, left);
    record.add(step.name, result);
    writePage(values.out, record.content);
    const { status, seconds, reason } = result;
    process.stdout.write(`  ${status}${seconds === undefined ? "" : `, ${seconds} s`}${reason ? `: ${reason}` : ""}\n`);
    if (status !== "passed") process.exitCode = 1;
  }
  process.stdout.write(`${record.path}\n`);
});
