// The table of docs/reference/versions.md.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { root } from "../steps.mjs";

const START = "<!-- matrix:vllm -->";
const END = "<!-- /matrix:vllm -->";
const page = join(root, "docs/reference/versions.md");

/** What a cell says of a group. @param short whether some of its files alone were run */
export function cell({ passed, failed, skipped }, short) {
  const parts = [`${passed} passed`];
  if (failed > 0) parts.push(`**${failed} failed**`);
  if (skipped > 0) parts.push(`${skipped} skipped`);
  if (short) parts.push("short");
  return parts.join(", ");
}

/** The cells of the page's table by version and Python: what is not run now stays there as it was. */
export function readRows() {
  const text = existsSync(page) ? readFileSync(page, "utf8") : "";
  const table = text.split(START)[1]?.split(END)[0] ?? "";
  return new Map(
    [...table.matchAll(/^\| (\d+\.\d+\.\d+ \| .*) \|$/gm)].map(([, row]) => {
      const cells = row.split(" | ");
      return [`${cells[0]}/${cells[2]}`, cells];
    }),
  );
}

/** @param rows cells by version and Python: version, torch, Python, and one for each group */
export function toTable(rows, groups) {
  const head = ["vLLM", "torch", "Python", ...groups];
  const sorted = [...rows.values()].sort(
    (a, b) => compare(a[0], b[0]) || compare(a[2], b[2]) || compare(a[1] ?? "", b[1] ?? ""),
  );
  const lines = [head, head.map(() => "---"), ...sorted];
  return lines.map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

const compare = (a, b) => a.localeCompare(b, "en", { numeric: true });

export function writeTable(table, triton) {
  const when = new Date().toISOString().slice(0, 10);
  const note = `Triton ${triton}; last run ${when}, on ${processor()}.`;
  const text = readFileSync(page, "utf8");
  const [before, rest] = text.split(START);
  if (rest === undefined) throw new Error(`${page} has no ${START}`);
  writeFileSync(page, `${before}${START}\n${table}\n\n${note}\n${END}${rest.split(END)[1]}`);
  return page;
}

function processor() {
  const flags = /^flags\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
  const levels = ["amx_tile", "avx512_bf16", "avx512f", "avx2"].filter((flag) => flags.includes(flag));
  return `${cpus()[0]?.model ?? "unknown"} (${levels.join(", ")})`;
}
