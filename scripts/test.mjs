// `npm test`: sets up all it needs, then runs every check in lanes side by side: vitest; pytest; types, style, layers and
// C++ under the sanitizers.
// Arguments are passed to vitest (`npm test -- test/unit`); then only vitest runs. `npm test -- --quick` runs the checks
// that need no compiler and the tests that start neither Triton nor an engine.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { failedByPytest, failedByVitest, listFailed } from "./failures.mjs";
import { lanes } from "./lanes.mjs";
import { listSkipped, reporter, skippedByPytest, skippedByVitest } from "./skipped.mjs";
import {
  buildAddon,
  buildTypeScript,
  cache,
  dependencies,
  isAddonFresh,
  main,
  models,
  root,
  runtime,
} from "./steps.mjs";

// The tests that start neither Triton nor an engine, so that `--quick` answers within a minute.
const QUICK_VITEST = ["test/unit", "test/types", "--exclude=test/unit/server*.test.ts"];
const QUICK_PYTEST = [
  "test/python/contract",
  "test/python/engine/test_settings.py",
  "test/python/openai/test_call.py",
  "test/python/test_coerce.py",
];

const node = process.execPath;

/** What a lane found: how many tests passed, and which failed or were skipped. */
const nothing = () => ({ passed: 0, failed: [], skipped: [] });

async function vitest(run, args) {
  const report = join(cache, "vitest.json");
  rmSync(report, { force: true });
  const reporters = ["--reporter=default", "--reporter=json", reporter, `--outputFile=${report}`];
  const code = await run("vitest", node, ["node_modules/vitest/vitest.mjs", "run", ...reporters, ...args]);
  const result = nothing();
  if (existsSync(report)) {
    const tests = JSON.parse(readFileSync(report, "utf8"));
    result.passed = tests.numPassedTests;
    result.failed = failedByVitest(tests, root);
    result.skipped = skippedByVitest();
  }
  // An error outside a test fails the run without failing a test.
  if (code !== 0 && result.failed.length === 0) result.failed.push({ name: "vitest", message: `exit code ${code}` });
  return result;
}

async function pytest(run, python, args) {
  const junit = join(cache, "pytest.xml");
  rmSync(junit, { force: true });
  const code = await run("pytest", python, ["-m", "pytest", "-q", `--junitxml=${junit}`, ...args]);
  const xml = existsSync(junit) ? readFileSync(junit, "utf8") : "";
  const failed = failedByPytest(xml);
  const skipped = skippedByPytest(xml);
  const tests = Number(/<testsuite [^>]*\btests="(\d+)"/.exec(xml)?.[1] ?? 0);
  const passed = tests - failed.length - skipped.length;
  if (code !== 0 && failed.length === 0) failed.push({ name: "pytest", message: `exit code ${code}` });
  return { passed, failed, skipped };
}

/** Checks that are one program each: it passes or it fails. */
async function checks(run, python, quick) {
  const result = nothing();
  async function check(what, command, args, env = {}) {
    const code = await run(what, command, args, { env });
    if (code === 0) result.passed++;
    else result.failed.push({ name: what, message: `exit code ${code}: see "> ${what}" above` });
  }
  await check("types", node, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.json", "--noEmit"]);
  await check("style of TypeScript", node, ["node_modules/@biomejs/biome/bin/biome", "check", "."]);
  const cruise = "node_modules/dependency-cruiser/bin/dependency-cruise.mjs";
  await check("arrows between the folders of src", node, [cruise, "--config", ".dependency-cruiser.cjs", "src"]);
  const folders = ["backends", "test", "examples", "bench"].filter((path) => existsSync(join(root, path)));
  await check("style of Python", python, ["-m", "ruff", "check", ...folders]);
  await check("types of Python", python, ["-m", "mypy", "backends/vllm/tritonode"]);
  const layers = [join(dirname(python), "lint-imports"), ["pyproject.toml", "--no-cache"]];
  await check("arrows between the folders of the backend", ...layers, { PYTHONPATH: join(root, "backends/vllm") });
  if (quick) return result;
  await check("the packed package (publint, attw)", node, ["scripts/check-package.mjs"]);
  // cmake and ctest are the runtime's, where the machine has none.
  const PATH = `${process.env.PATH}:${dirname(python)}`;
  await check("C++ under the sanitizers", node, ["test/native/run.mjs"], { PATH });
  return result;
}

/**
 * Makes the addon, the runtime, and the models and adapters for the tests. Where the addon has to be compiled, the runtime
 * is downloaded and unpacked meanwhile. Resolves with the runtime's description.
 */
async function prepare() {
  async function prepareRuntime(execute) {
    const found = await runtime(["test", "demo"], execute);
    const made = await models(found.python, execute);
    writeFileSync(join(cache, "paths.json"), JSON.stringify({ ...made, python: found.python }));
    return found;
  }
  if (isAddonFresh()) {
    await buildAddon();
    return prepareRuntime();
  }
  const inLane = (body) => (run) =>
    body(async (command, args, options) => {
      const code = await run(args[0], command, args, options);
      if (code !== 0) throw new Error(`${[command, ...args].join(" ")} ended with exit code ${code}`);
    });
  const [found] = await lanes([
    { name: "runtime, models and adapters for the tests", body: inLane(prepareRuntime) },
    { name: "native addon", body: inLane(buildAddon) },
  ]);
  return found;
}

main(async () => {
  const arguments_ = process.argv.slice(2);
  const quick = arguments_.includes("--quick");
  const only = arguments_.filter((argument) => argument !== "--quick");
  mkdirSync(cache, { recursive: true });
  await dependencies();
  await buildTypeScript();
  const { python, directory } = await prepare();
  process.env.TRITONODE_RUNTIME_DIR = directory;

  const vitestArguments = [...(quick ? QUICK_VITEST : []), ...only];
  const list = [{ name: "vitest", body: (run) => vitest(run, vitestArguments) }];
  if (only.length === 0) {
    list.push(
      { name: "pytest", body: (run) => pytest(run, python, quick ? QUICK_PYTEST : []) },
      { name: "checks", body: (run) => checks(run, python, quick) },
    );
  }
  const results = await lanes(list);
  const failed = results.flatMap((result) => result.failed);
  // A run of some tests by name skips all others.
  if (!only.some((argument) => /^(-t|--testNamePattern)/.test(argument))) {
    listSkipped(results.flatMap((result) => result.skipped));
  }
  listFailed(failed);
  const passed = results.reduce((sum, result) => sum + result.passed, 0);
  console.log(`${passed} passed, ${failed.length} failed`);
  process.exitCode = failed.length === 0 ? 0 : 1;
});
