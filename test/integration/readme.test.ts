import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { paths, root } from "../support/paths";

// What the README tells people to paste, pasted. Inside the package's folder, so that its own name resolves to it.

const folder = mkdtempSync(join(root, ".cache/readme-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test("the ten lines work as they stand", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const code = /```js\n(import \{ VllmModel \}[\s\S]*?)```/.exec(readme)?.[1] ?? "";
  expect(code).toContain("./workspace/model_repository");
  writeFileSync(join(folder, "lines.mjs"), code.replace("./workspace/", `${paths.workspace}/`));
  const run = spawnSync(process.execPath, ["lines.mjs"], { cwd: folder, encoding: "utf8" });
  expect(run.stderr).toBe("");
  expect(run.stdout).toContain("Arrr");
  expect(run.stdout).toMatch(/\{"answer": .*\} (stop|length) \{/);
  expect(run.status).toBe(0);
});

test("the script example answers lines in their order", () => {
  const lines = readFileSync(join(paths.workspace, "prompts.txt"), "utf8").trimEnd().split("\n").slice(0, 3);
  const run = spawnSync(
    process.execPath,
    [join(root, "examples/script/answer-lines.mjs"), join(paths.workspace, "model_repository"), "bactrian"],
    { cwd: root, encoding: "utf8", input: lines.join("\n") },
  );
  expect(run.stderr).toBe("");
  expect(run.stdout.trimEnd().split("\n").length).toBeGreaterThanOrEqual(3);
  expect(run.stdout).toContain('"answer"');
});
