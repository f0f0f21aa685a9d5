import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { root } from "../support/paths";

// The arguments of the scripts that take long (scripts/arguments.mjs): answered before anything is installed or built, of
// which each would write a line to stdout.

function run(script: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, script), ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
}

const scripts = [
  ...["matrix-vllm", "matrix-formats", "matrix", "chaos", "check-gpu", "soak", "docs", "record-demo", "prepack"].map(
    (name) => `scripts/${name}.mjs`,
  ),
  ...["run", "guard", "start", "linear/table", "linear/perplexity"].map((name) => `bench/${name}.mjs`),
];

test.for(scripts)("%s names an option that it does not have", (script) => {
  const mistyped = run(script, "--hepl");
  expect(mistyped).toMatchObject({ status: 1, stdout: "" });
  expect(mistyped.stderr).toMatch(/^failed: unknown option --hepl; known: (--\S+, )*--help\n$/);
});

test("--help writes the comment at the head of the script", () => {
  const help = run("scripts/matrix-vllm.mjs", "--help");
  expect(help).toMatchObject({ status: 0, stderr: "" });
  expect(help.stdout.split("\n").at(0)).toMatch(/^`npm run matrix:vllm`: /);
  expect(help.stdout).not.toContain("import ");
});

test.for([
  ["scripts/matrix-vllm.mjs", "9.9.9", "no row 9.9.9: there are 0.26.0, "],
  ["scripts/check-gpu.mjs", "--device=tpu", "no device tpu: there are cuda, cpu"],
  ["scripts/soak.mjs", "--streams=many", "--streams many is not a whole number above 0"],
  ["bench/run.mjs", "--only=tiny,large", "no section large: there are tiny, "],
  ["bench/run.mjs", "--peers=nobody", "no peer nobody: there are raw, "],
  ["bench/guard.mjs", "large", "no part large: there are tiny, adapters"],
] as const)("%s refuses %s", ([script, argument, message]) => {
  const { status, stdout, stderr } = run(script, argument);
  expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
  expect(stderr.startsWith(`failed: ${message}`)).toBe(true);
});
