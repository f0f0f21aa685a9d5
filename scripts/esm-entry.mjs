// Writes dist/index.mjs: the package is compiled to CommonJS once, and ES modules get the same objects by name, so that
// `instanceof` holds across both ways of loading it.
import { writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const dist = join(dirname(dirname(fileURLToPath(import.meta.url))), "dist");
const names = Object.keys(createRequire(import.meta.url)(join(dist, "index.js"))).sort();
writeFileSync(
  join(dist, "index.mjs"),
  `import tritonode from "./index.js";\nexport const {\n${names.map((name) => `  ${name},\n`).join("")}} = tritonode;\n`,
);
writeFileSync(join(dist, "index.d.mts"), 'export * from "./index.js";\n');
