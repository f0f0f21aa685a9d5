// `npm run matrix:vllm`: the conformance, LoRA, kernel and OpenAI tests on every version of vLLM that the backend is for,
// and on other Pythons. Writes what it ran to docs/reference/versions.md, unless `--no-write`: what was not run stays
// there as it was. Arguments name rows (0.31.0, 0.26.0/3.12 …), `--only=NAME` a group of tests; `--short` runs a file or
// two of each group, `--resume` file by file those that have not passed in an earlier run with it: after a change of the
// code, remove .cache/matrix-vllm/kept-*.json. Nothing of the runtime is changed.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { checkName, readArguments } from "./arguments.mjs";
import { folder, prepareRow, ROWS, versionOf } from "./matrix-vllm/environments.mjs";
import { GROUPS, runGroup } from "./matrix-vllm/groups.mjs";
import { runFiles } from "./matrix-vllm/kept.mjs";
import { cell, readRows, toTable, writeTable } from "./matrix-vllm/table.mjs";
import { build, main, output, prepared, root, say } from "./steps.mjs";

const { values, positionals: named } = readArguments(
  import.meta.filename,
  {
    only: { type: "string", multiple: true, default: [] },
    short: { type: "boolean", default: false },
    resume: { type: "boolean", default: false },
    "no-write": { type: "boolean", default: false },
  },
  {
    allowPositionals: true,
    check({ values, positionals }) {
      for (const row of positionals) checkName("row", row, ROWS);
      for (const group of values.only) checkName("group", group, GROUPS);
    },
  },
);
const { only, short, resume } = values;

main(async () => {
  prepared();
  await build();
  mkdirSync(folder, { recursive: true });
  const { findRuntime } = await import(join(root, "dist/index.js"));
  const runtime = await findRuntime({ device: "cpu" });
  let failed = 0;
  for (const row of named.length > 0 ? named : Object.keys(ROWS)) {
    const source = ROWS[row].source !== undefined;
    const { python, environment } = await prepareRow(row, runtime);
    const results = {};
    for (const [name, group] of Object.entries(GROUPS)) {
      if (only.length > 0 ? !only.includes(name) : source && name !== "names") continue;
      say(`vLLM ${row}: ${name}`);
      const tests = short ? (group.short ?? group) : group;
      const counts = await (resume ? runFiles(row, tests, python, environment) : runGroup(tests, python, environment));
      failed += counts.failed;
      for (const test of counts.failures) console.log(`  failed on ${row}: ${test}`);
      results[name] = cell(counts, short && group.short !== undefined);
    }
    const torch = source ? "—" : (await output(python, ["-c", "import torch; print(torch.__version__)"])).trim();
    const version = source ? "—" : (ROWS[row].python ?? runtime.pythonVersion);
    const rows = readRows();
    const key = `${versionOf(row)}/${version}`;
    const before = rows.get(key)?.slice(3) ?? [];
    const cells = Object.keys(GROUPS).map((name, at) => results[name] ?? before[at] ?? "—");
    rows.set(key, [versionOf(row), torch, version, ...cells]);
    const table = toTable(rows, Object.keys(GROUPS));
    console.log(table);
    // After each row, so that a run that is interrupted keeps what it has.
    if (!values["no-write"]) console.log(`written: ${writeTable(table, runtime.triton.version)}`);
  }
  process.exitCode = failed === 0 ? 0 : 1;
});
