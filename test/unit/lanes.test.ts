import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { isRunning } from "../support/host";
import { root } from "../support/paths";
import { until } from "../support/triton";

// How `npm test` runs its lanes (scripts/lanes.mjs), and what it lists as failed (scripts/failures.mjs).

const script = (name: string) => JSON.stringify(pathToFileURL(join(root, "scripts", name)).href);

/** Runs an ES module of Node; resolves with what it wrote to stdout. */
function start(code: string): {
  child: ChildProcess;
  text: () => string;
  ended: Promise<[number | null, string | null]>;
} {
  const child = spawn(process.execPath, ["--input-type=module", "-e", code], { stdio: ["ignore", "pipe", "inherit"] });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    text += chunk;
  });
  return {
    child,
    text: () => text,
    ended: new Promise((resolve) => child.on("close", (code, signal) => resolve([code, signal]))),
  };
}

const lane = (name: string, shell: string) =>
  `{ name: "${name}", body: (run) => run("${name}", "sh", ["-c", ${JSON.stringify(shell)}]) }`;

test("the first lane writes as it goes, the other in one block; exit codes keep their order", async () => {
  const other = lane("other", "echo two; sleep 0.3; echo three; printf unfinished; exit 3");
  const run = start(`
    import { lanes } from ${script("lanes.mjs")};
    const codes = await lanes([${lane("live", "echo one; sleep 1; echo four")}, ${other}]);
    console.log(codes.join());`);
  expect(await run.ended).toEqual([0, null]);
  const text = run.text().replaceAll(/\d+:\d\d/g, "0:00");
  expect(text).toContain("\ntwo\nthree\nunfinished\n");
  expect(text.indexOf("> live\none\n")).toBe(0);
  expect(text.endsWith("\n0,3\n")).toBe(true);
  expect(text).toContain("four\n> live has ended after 0:00\n");
});

test("a signal ends all lanes with what they have started, and then the run as a signal does", async () => {
  const started = "sleep 600 & echo pid $!; wait";
  const run = start(`
    import { lanes } from ${script("lanes.mjs")};
    process.stdout.write(process.pid + "\\n");
    await lanes([{ name: "checks", body: async (run) => {
      await run("first", "sh", ["-c", ${JSON.stringify(started)}]);
      await run("second", "echo", ["the next step must not start"]);
    } }]);`);
  await until(() => /pid \d+/.test(run.text()));
  const pid = Number(/pid (\d+)/.exec(run.text())?.[1]);
  expect(isRunning(pid)).toBe(true);
  run.child.kill("SIGTERM");
  expect(await run.ended).toEqual([143, null]);
  await until(() => !isRunning(pid));
  expect(run.text()).not.toContain("the next step");
});

test("what failed is listed by name, with the beginning of its message", async () => {
  const assertion = { status: "failed", fullName: "adds up", failureMessages: ["expected 2, got 3"] };
  const report = {
    testResults: [
      { name: `${root}/test/a.test.ts`, status: "failed", message: "", assertionResults: [assertion] },
      { name: `${root}/test/b.test.ts`, status: "failed", message: "no such module", assertionResults: [] },
      { name: `${root}/test/c.test.ts`, status: "passed", message: "", assertionResults: [{ status: "passed" }] },
    ],
  };
  const xml = `<testsuites><testsuite errors="1" failures="1" tests="3"><testcase classname="test.d" name="x[1]" time="0.1">
<failure message="assert 1 &lt; 0&#10;second line">trace</failure></testcase>
<testcase classname="test.e" name="y" time="0.1"><error message="failed on setup">trace</error></testcase>
<testcase classname="test.f" name="z" time="1" /></testsuite></testsuites>`;
  const run = start(`
    import { failedByPytest, failedByVitest, listFailed } from ${script("failures.mjs")};
    const vitest = failedByVitest(${JSON.stringify(report)}, ${JSON.stringify(root)});
    listFailed([...vitest, ...failedByPytest(${JSON.stringify(xml)})]);`);
  await run.ended;
  expect(run.text()).toBe(`4 failed:
  test/a.test.ts > adds up
    expected 2, got 3
  test/b.test.ts
    no such module
  test.d > x[1]
    assert 1 < 0
    second line
  test.e > y
    failed on setup
`);
});
