// What each file of tests gave on a row, kept from run to run, so that a run of hours may be interrupted (`--resume`).
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { folder } from "./environments.mjs";
import { filesOf, runGroup } from "./groups.mjs";

/** Runs a group file by file, without the files in which every test passed before; counts as `runGroup` does. */
export async function runFiles(row, group, python, environment) {
  const path = join(folder, `kept-${row.replace("/", "-python")}.json`);
  const kept = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : {};
  const sum = { passed: 0, failed: 0, skipped: 0, failures: [] };
  for (const file of filesOf(group)) {
    const [[name]] = Object.values(file);
    if (kept[name]?.failed !== 0) {
      kept[name] = await runGroup(file, python, environment);
      // Renamed when it is complete: a run may be killed at any moment.
      writeFileSync(`${path}.new`, JSON.stringify(kept));
      renameSync(`${path}.new`, path);
    }
    for (const key of ["passed", "failed", "skipped"]) sum[key] += kept[name][key];
    sum.failures.push(...kept[name].failures);
  }
  return sum;
}
