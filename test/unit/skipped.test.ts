import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, expect, test } from "vitest";
import { root } from "../support/paths";

// What `npm test` and `npm run chaos` list after a run (scripts/skipped.mjs).

const list = pathToFileURL(join(root, "scripts/skipped.mjs")).href;
// Inside the project, so that vitest is found; a folder of its own, so that the run under way keeps its notes.
const folder = join(root, ".cache", `skipped-${process.pid}`);
mkdirSync(join(folder, "test"), { recursive: true });
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function printed(script: string): string {
  const code = `import { listSkipped, skippedByPytest, skippedByVitest } from "${list}"; ${script}`;
  const env = { ...process.env, TRITONODE_SKIPPED: join(folder, "skipped.json") };
  return execFileSync(process.execPath, ["--input-type=module", "-e", code], { encoding: "utf8", env });
}

test("vitest's skipped tests, with the reason that each gives", () => {
  writeFileSync(
    join(folder, "test/some.test.ts"),
    `import { describe, test } from "vitest";
import { unless } from ${JSON.stringify(join(root, "test/support/skip"))};
test("runs", unless(false, "no"), () => {});
test("cannot run", unless(true, "no such thing here"), () => {});
describe("a group", unless(true, "the whole group"), () => { test("in it", () => {}); });
test("finds out later", ({ skip }) => skip("found out"));
test.skip("says nothing", () => {});
`,
  );
  execFileSync(
    process.execPath,
    [
      join(root, "node_modules/vitest/vitest.mjs"),
      "run",
      `--root=${folder}`,
      `--config=${join(root, "vitest.config.mts")}`,
      "--typecheck.enabled=false",
      `--reporter=${join(root, "scripts/skipped.mjs")}`,
    ],
    { cwd: folder, env: { ...process.env, TRITONODE_SKIPPED: join(folder, "skipped.json") }, stdio: "pipe" },
  );
  expect(printed("listSkipped(skippedByVitest())")).toBe(
    [
      "4 skipped:",
      "  test/some.test.ts > cannot run: no such thing here",
      "  test/some.test.ts > a group > in it: the whole group",
      "  test/some.test.ts > finds out later: found out",
      "  test/some.test.ts > says nothing: no reason given",
      "",
    ].join("\n"),
  );
});

test("pytest's skipped tests, from its report", () => {
  const report = `<testsuites><testsuite tests="3"><testcase classname="test.a" name="x[1]" time="0.1">
<skipped type="pytest.skip" message="glibc&apos;s &lt;2.33&gt;">a.py:1</skipped></testcase>
<testcase classname="test.a" name="passes" time="1" /></testsuite></testsuites>`;
  expect(printed(`listSkipped(skippedByPytest(${JSON.stringify(report)}))`)).toBe(
    "1 skipped:\n  test.a > x[1]: glibc's <2.33>\n",
  );
});
