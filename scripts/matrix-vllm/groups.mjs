// The tests that the matrix runs, by group, and what came of them.
import { existsSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { failedByPytest, failedByVitest } from "../failures.mjs";
import { root, start } from "../steps.mjs";
import { folder } from "./environments.mjs";

const SHORT_LORA = ["test/python/lora/test_exact.py", "test/python/lora/test_gpu_kernels.py"];

/** Files of tests; with `--short` those of `short`. */
export const GROUPS = {
  names: { python: ["test/python/vllm/test_names.py"] },
  conformance: { vitest: ["test/conformance"], short: { vitest: ["test/conformance/contract.test.ts"] } },
  LoRA: {
    vitest: ["test/integration/adapters.test.ts"],
    python: ["test/python/lora"],
    short: { vitest: ["test/integration/adapters.test.ts"], python: SHORT_LORA },
  },
  // The kernels of this package under that version: linear layers and attention, and a decoder's layers in one call.
  kernels: {
    python: ["test/python/cpu"],
    short: { python: ["test/python/cpu/test_decoder.py", "test/python/cpu/test_linear_vllm.py"] },
  },
  OpenAI: {
    vitest: ["test/openai"],
    python: ["test/python/openai"],
    short: { vitest: ["test/openai/fetch.test.ts"] },
  },
  "main job": {
    vitest: ["test/integration/tutorial.test.ts", "test/integration/model.test.ts"],
    short: { vitest: ["test/integration/tutorial.test.ts"] },
  },
};

/** A group's files of tests, each as a group of its own. */
export function filesOf(group) {
  const each = (runner, pattern) =>
    (group[runner] ?? []).flatMap((path) => testFiles(path, pattern).map((file) => ({ [runner]: [file] })));
  return [...each("vitest", /\.test\.ts$/), ...each("python", /^test_.*\.py$/)];
}

function testFiles(path, pattern) {
  if (!statSync(join(root, path)).isDirectory()) return pattern.test(basename(path)) ? [path] : [];
  return readdirSync(join(root, path))
    .sort()
    .flatMap((name) => testFiles(`${path}/${name}`, pattern));
}

/** How many tests of a group passed, failed and were skipped, with the names of those that failed. */
export async function runGroup(group, python, environment) {
  const counts = { passed: 0, failed: 0, skipped: 0, failures: [] };
  const env = { ...process.env, ...environment };
  if (group.vitest !== undefined) await runVitest(group.vitest, env, counts);
  if (group.python !== undefined) await runPytest(group.python, python, env, counts);
  counts.failed = counts.failures.length;
  return counts;
}

// Rows may be run side by side.
const report = join(folder, `report-${process.pid}`);

async function runVitest(files, env, counts) {
  rmSync(report, { force: true });
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile=${report}`];
  // An environment is new: its first loads read gigabytes that no other program has read yet.
  const limits = ["--testTimeout=600000", "--hookTimeout=600000"];
  const program = ["node_modules/vitest/vitest.mjs", "run", "--typecheck.enabled=false", ...limits, ...reporters];
  await start(process.execPath, [...program, ...files], { env });
  if (!existsSync(report)) {
    counts.failures.push("vitest wrote no report");
    return;
  }
  const found = JSON.parse(readFileSync(report, "utf8"));
  counts.passed += found.numPassedTests;
  counts.skipped += found.numPendingTests;
  counts.failures.push(...failedByVitest(found, root).map(({ name }) => name));
  rmSync(report, { force: true });
}

async function runPytest(files, python, env, counts) {
  rmSync(report, { force: true });
  await start(python, ["-m", "pytest", "-q", `--junitxml=${report}`, ...files], { env });
  if (!existsSync(report)) {
    counts.failures.push("pytest wrote no report");
    return;
  }
  const xml = readFileSync(report, "utf8");
  const suite = /<testsuite [^>]*>/.exec(xml)?.[0] ?? "";
  const count = (key) => Number(new RegExp(` ${key}="(\\d+)"`).exec(suite)?.[1] ?? 0);
  const bad = count("errors") + count("failures");
  counts.skipped += count("skipped");
  counts.passed += count("tests") - bad - count("skipped");
  const named = failedByPytest(xml).map(({ name }) => name);
  // A file that cannot be imported is an error that no test stands for.
  while (named.length < bad) named.push("an error outside a test");
  counts.failures.push(...named);
  rmSync(report, { force: true });
}
