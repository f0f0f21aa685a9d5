// `npm run docs`: the documentation site, as static files in build-docs/.
//
//   npm run docs                build
//   npm run docs -- --serve     build, then show it on http://localhost:4173
//
// TypeDoc writes docs/reference/api from the sources' comments, then VitePress makes pages of all Markdown files in docs/,
// with a search that runs in the browser. A warning of either, and a link to nowhere, fails the build.
import { rmSync } from "node:fs";
import { join } from "node:path";
import { readArguments } from "./arguments.mjs";
import { checkSite } from "./docs/check-site.mjs";
import { dependencies, main, root, run, say, start } from "./steps.mjs";

const { values } = readArguments(import.meta.filename, { serve: { type: "boolean", default: false } });
const [docs, site] = [join(root, "docs"), join(root, "build-docs")];
const program = (name, file) => join(docs, "node_modules", name, file);

main(async () => {
  await dependencies("docs");
  say("the API, by TypeDoc");
  rmSync(join(docs, "reference/api"), { recursive: true, force: true });
  await run(process.execPath, [program("typedoc", "bin/typedoc"), "--options", "typedoc.json"], { cwd: docs });
  say("the site, by VitePress");
  const vitepress = program("vitepress", "bin/vitepress.js");
  await runWithoutWarning(process.execPath, [vitepress, "build", docs]);
  const defects = checkSite(site);
  for (const defect of defects) process.stderr.write(`${defect}\n`);
  if (defects.length > 0) throw new Error(`the site has ${defects.length} defects`);
  process.stdout.write(`${site}\n`);
  if (values.serve) await run(process.execPath, [vitepress, "preview", docs]);
});

/** VitePress has no option that makes a warning an error. */
async function runWithoutWarning(command, args) {
  let written = "";
  const onOutput = (text) => {
    written += text;
    process.stdout.write(text);
  };
  const code = await start(command, args, { onOutput });
  if (code !== 0) throw new Error(`${args.join(" ")} ended with exit code ${code}`);
  const warning = written.split("\n").find((line) => /\bwarn|\(!\)|falling back|deprecated/i.test(line));
  if (warning !== undefined) throw new Error(`a warning: ${warning}`);
}
