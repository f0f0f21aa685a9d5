// `npm test`: sets up all it needs, then runs every check: types and style, C++ under the sanitizers, vitest, pytest.
// Arguments are passed to vitest (`npm test -- test/unit`); then only vitest runs. `npm test -- --quick` runs the checks
// that need no compiler and the tests that start neither Triton nor an engine.
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { listSkipped, reporter, skippedByPytest, skippedByVitest } from "./skipped.mjs";
import { build, cache, dependencies, main, models, root, runtime, say, start } from "./steps.mjs";

// The tests that start neither Triton nor an engine, so that `--quick` answers within a minute.
const QUICK_VITEST = ["test/unit", "test/types", "--exclude=test/unit/server*.test.ts"];
const QUICK_PYTEST = [
  "test/python/contract",
  "test/python/engine/test_settings.py",
  "test/python/openai/test_call.py",
  "test/python/test_coerce.py",
];

main(async () => {
  const arguments_ = process.argv.slice(2);
  const quick = arguments_.includes("--quick");
  const only = arguments_.filter((argument) => argument !== "--quick");
  mkdirSync(cache, { recursive: true });
  await dependencies();
  await build();
  const { python, directory } = await runtime(["test", "demo"]);
  process.env.TRITONODE_RUNTIME_DIR = directory;

  say("models and adapters for the tests");
  const { fixtures, workspace } = await models(python);
  writeFileSync(join(cache, "paths.json"), JSON.stringify({ fixtures, workspace, python }));

  let passed = 0;
  let failed = 0;

  /** A check that is one program: it passes or it fails. */
  async function check(what, command, args, options) {
    say(what);
    if ((await start(command, args, options)) === 0) passed++;
    else failed++;
  }

  if (only.length === 0) {
    const node = process.execPath;
    await check("types", node, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.json", "--noEmit"]);
    await check("style of TypeScript", node, ["node_modules/@biomejs/biome/bin/biome", "check", "."]);
    const cruise = "node_modules/dependency-cruiser/bin/dependency-cruise.mjs";
    await check("arrows between the folders of src", node, [cruise, "--config", ".dependency-cruiser.cjs", "src"]);
    const python_ = ["backends", "test", "examples", "bench"].filter((path) => existsSync(join(root, path)));
    await check("style of Python", python, ["-m", "ruff", "check", ...python_]);
    await check("types of Python", python, ["-m", "mypy", "backends/vllm/tritonode"]);
    const PYTHONPATH = join(root, "backends/vllm");
    const layers = ["pyproject.toml", "--no-cache"];
    await check("arrows between the folders of the backend", join(dirname(python), "lint-imports"), layers, {
      env: { ...process.env, PYTHONPATH },
    });
    if (!quick) {
      await check("the packed package (publint, attw)", node, ["scripts/check-package.mjs"]);
      // cmake and ctest are the runtime's, where the machine has none.
      const PATH = `${process.env.PATH}:${dirname(python)}`;
      await check("C++ under the sanitizers", node, ["test/native/run.mjs"], { env: { ...process.env, PATH } });
    }
  }

  say("vitest");
  const report = join(cache, "vitest.json");
  rmSync(report, { force: true });
  const vitest = [
    "node_modules/vitest/vitest.mjs",
    "run",
    "--reporter=default",
    "--reporter=json",
    reporter,
    `--outputFile=${report}`,
  ];
  const vitestCode = await start(process.execPath, [...vitest, ...(quick ? QUICK_VITEST : []), ...only]);
  if (existsSync(report)) {
    const { numPassedTests, numFailedTests, success } = JSON.parse(readFileSync(report, "utf8"));
    passed += numPassedTests;
    failed += numFailedTests;
    // A file that could not be loaded, or an error outside a test, fails the run without failing a test.
    if (!success && numFailedTests === 0) failed++;
  } else {
    failed++;
  }
  if (vitestCode !== 0 && failed === 0) failed++;
  const skipped = skippedByVitest();

  if (only.length === 0) {
    say("pytest");
    const junit = join(cache, "pytest.xml");
    rmSync(junit, { force: true });
    const code = await start(python, ["-m", "pytest", "-q", `--junitxml=${junit}`, ...(quick ? QUICK_PYTEST : [])]);
    const xml = existsSync(junit) ? readFileSync(junit, "utf8") : "";
    const counts = /<testsuite [^>]*>/.exec(xml)?.[0];
    const count = (name) => Number(new RegExp(` ${name}="(\\d+)"`).exec(counts ?? "")?.[1] ?? 0);
    const bad = count("errors") + count("failures");
    passed += count("tests") - bad - count("skipped");
    failed += bad;
    if (code !== 0 && bad === 0) failed++;
    skipped.push(...skippedByPytest(xml));
  }

  // A run of some tests by name skips all others.
  if (!only.some((argument) => /^(-t|--testNamePattern)/.test(argument))) listSkipped(skipped);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
});
