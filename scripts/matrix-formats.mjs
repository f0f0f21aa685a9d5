// `npm run matrix:formats`: every format of weights with every family of models, in float32 and bfloat16
// (test/python/formats, of which `npm test` runs a part). Arguments name families, formats or types, and only combinations
// that have all of them in their name run: `npm run matrix:formats -- phi3 float32`. At the end it prints a table.
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { readArguments } from "./arguments.mjs";
import { build, cache, main, prepared, root, start } from "./steps.mjs";

const { positionals } = readArguments(import.meta.filename, {}, { allowPositionals: true });
const report = join(cache, "formats.xml");

/** The outcome of each combination: family, format, type → passed or failed. */
function outcomes(xml) {
  const found = [];
  for (const [, attributes, rest] of xml.matchAll(/<testcase ([^>]*?)(\/>|>.*?<\/testcase>)/gs)) {
    const name = /name="[^"]*\[([^"]*)\]"/.exec(attributes)?.[1];
    const parts = /^([^-]+)-(.*)-([^-]+)$/.exec(name ?? "");
    if (parts === null || rest.includes("<skipped")) continue;
    const [, family, form, dtype] = parts;
    found.push({ family, form, dtype, passed: !/<(failure|error)\b/.test(rest) });
  }
  return found;
}

function table(found) {
  const columns = [...new Set(found.map(({ family, dtype }) => `${family} ${dtype}`))];
  const rows = [...new Set(found.map(({ form }) => form))].map((form) => {
    const cells = columns.map((column) => {
      const one = found.find((each) => each.form === form && `${each.family} ${each.dtype}` === column);
      return one === undefined ? "" : one.passed ? "yes" : "NO";
    });
    return `| ${[form, ...cells].join(" | ")} |`;
  });
  return [`| format | ${columns.join(" | ")} |`, `| ${["", ...columns].map(() => "---").join(" | ")} |`, ...rows].join(
    "\n",
  );
}

main(async () => {
  prepared();
  await build();
  const { findRuntime } = await import(join(root, "dist/index.js"));
  const { python } = await findRuntime({ device: "cpu" });
  mkdirSync(cache, { recursive: true });
  rmSync(report, { force: true });
  const named = positionals.map((word) => word.replaceAll("-", " and "));
  const only = named.length > 0 ? ["-k", named.join(" and ")] : [];
  const pytest = ["-m", "pytest", "-q", "--show-capture=no", `--junitxml=${report}`, "test/python/formats", ...only];
  process.exitCode = await start(python, pytest, { env: { ...process.env, TRITONODE_ALL_FORMATS: "1" } });
  if (!existsSync(report)) throw new Error(`pytest wrote no report: ${report}`);
  const found = outcomes(readFileSync(report, "utf8"));
  console.log(table(found));
  console.log(`${found.filter(({ passed }) => passed).length} of ${found.length} combinations are right`);
});
