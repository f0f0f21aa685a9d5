// Writes the ES module entries of dist/: the package is compiled to CommonJS once, and ES modules get the same objects by
// name, so that `instanceof` holds across both ways of loading it.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const dist = join(dirname(dirname(fileURLToPath(import.meta.url))), "dist");
const require = createRequire(import.meta.url);
for (const folder of ["", "ai-sdk", "opentelemetry"]) {
  const names = Object.keys(require(join(dist, folder, "index.js"))).sort();
  writeFileSync(
    join(dist, folder, "index.mjs"),
    `import tritonode from "./index.js";\nexport const {\n${names.map((name) => `  ${name},\n`).join("")}} = tritonode;\n`,
  );
  writeFileSync(join(dist, folder, "index.d.mts"), 'export * from "./index.js";\n');
}
