import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";

/**
 * The results in `<folder>/gpu-results.json`: those of earlier runs too, if they come from the same machine and versions.
 * Each step is on the disk before the next begins.
 */
export function openRecord(folder, machine) {
  mkdirSync(folder, { recursive: true });
  const path = join(folder, "gpu-results.json");
  const before = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")) : undefined;
  const content = isDeepStrictEqual(before?.machine, machine) ? before : { machine, steps: {} };
  return {
    path,
    content,
    add(name, result) {
      content.steps[name] = { date: new Date().toISOString().slice(0, 10), ...result };
      // Renamed when it is complete: a run may be killed at any moment.
      writeFileSync(`${path}.new`, `${JSON.stringify(content, undefined, 2)}\n`);
      renameSync(`${path}.new`, path);
    },
  };
}
