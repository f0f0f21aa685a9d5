// `npm run matrix:node`: the package packed from a clean clone, twice, and installed and run on every Node and with every
// package manager that it is meant for (test/integration/package.test.ts, whose quick part is in `npm test`). With
// `--no-clones` it is packed from this folder alone.
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readArguments } from "./arguments.mjs";
import { build, cache, main, output, prepared, root, run, say, start } from "./steps.mjs";

const { values } = readArguments(import.meta.filename, { "no-clones": { type: "boolean", default: false } });
const NODES = ["20", "22", "24", "26"];
const MANAGERS = { pnpm: "pnpm@10.34.8", yarn: "yarn@1.22.22", berry: "@yarnpkg/cli-dist@4.18.1" };
const PROGRAMS = { pnpm: "pnpm/bin/pnpm.cjs", yarn: "yarn/bin/yarn.js", berry: "@yarnpkg/cli-dist/bin/yarn.js" };
const folder = join(cache, "matrix");

/** Installs an npm package into a folder of its own, once; resolves with its node_modules. */
async function tool(name, what) {
  const prefix = join(folder, name);
  if (!existsSync(join(prefix, "package-lock.json"))) {
    say(`npm install ${what}`);
    mkdirSync(prefix, { recursive: true });
    await npm(["install", "--prefix", prefix, "--ignore-scripts", "--no-audit", "--no-fund", what]);
  }
  return join(prefix, "node_modules");
}

async function npm(args, options = {}) {
  const program = process.env.npm_execpath;
  await (program === undefined ? run("npm", args, options) : run(process.execPath, [program, ...args], options));
}

/** The digest of the tarball that `npm pack` makes in a fresh clone. */
async function packClone(place) {
  const clone = join(place, "tritonode");
  await run("git", ["clone", "--quiet", root, clone]);
  await npm(["pack", "--silent", "--pack-destination", place], { cwd: clone });
  const { version } = JSON.parse(readFileSync(join(clone, "package.json"), "utf8"));
  const tarball = join(place, `tritonode-${version}.tgz`);
  return { tarball, digest: createHash("sha256").update(readFileSync(tarball)).digest("hex") };
}

main(async () => {
  prepared();
  await build();
  const nodes = {};
  for (const major of NODES) {
    const path = join(
      await tool(`node-${major}`, `node-linux-${process.arch}@${major}`),
      `node-linux-${process.arch}/bin/node`,
    );
    nodes[(await output(path, ["--version"])).trim()] = path;
  }
  const managers = {};
  for (const [name, what] of Object.entries(MANAGERS)) managers[name] = join(await tool(name, what), PROGRAMS[name]);

  // In two folders of different names: neither may be in the files.
  const places = [
    mkdtempSync(join(tmpdir(), "tritonode-pack-")),
    mkdtempSync(join(tmpdir(), "tritonode-packed-elsewhere-")),
  ];
  try {
    const packed = [];
    if (!values["no-clones"]) {
      say("npm pack in two clean clones");
      for (const place of places) packed.push(await packClone(place));
      console.log(packed.map(({ digest, tarball }) => `${digest}  ${tarball}`).join("\n"));
      if (packed[0].digest !== packed[1].digest) throw new Error("two packs of the same commit differ");
    }
    const list = join(folder, "matrix.json");
    writeFileSync(list, JSON.stringify({ nodes, ...managers, tarball: packed[0]?.tarball }));
    const vitest = [
      "node_modules/vitest/vitest.mjs",
      "run",
      "--reporter=verbose",
      "--typecheck.enabled=false",
      "--testTimeout=900000",
    ];
    process.exitCode = await start(process.execPath, [...vitest, "test/integration/package.test.ts"], {
      env: { ...process.env, TRITONODE_MATRIX: list },
    });
  } finally {
    for (const place of places) rmSync(place, { recursive: true, force: true });
  }
});
