import {
  chmodSync,
  copyFileSync,
  existsSync,
  lstatSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { temporaryFolder } from "../support/folders";
import { application, Machine, matrix, npm, pack } from "../support/install";
import { tinyEngine } from "../support/models";
import { paths, root } from "../support/paths";
import { unless } from "../support/skip";
import { snippetsOf } from "../support/snippets";

// The real tarball, really installed: into an empty folder, with an empty cache, no network and no compiler.

// A space and a non-ASCII letter, as in many people's home folders.
const folder = temporaryFolder("tritonode pâquet ");
let tarball = "";

beforeAll(() => {
  tarball = pack(folder);
});

const imports = `
  import { createRequire } from "node:module";
  import { VllmModel, AdapterNotFoundError, findRuntime } from "tritonode";
  const cjs = createRequire(import.meta.url)("tritonode");
  const native = process.report.getReport().sharedObjects.filter((path) => path.includes("tritonode"));
  console.log(JSON.stringify({
    same: cjs.VllmModel === VllmModel && cjs.AdapterNotFoundError === AdapterNotFoundError,
    kind: typeof findRuntime,
    native,
  }));`;

/** Loads the tiny model in a worker thread and lets it answer. */
const worker = `
  const { Worker, isMainThread, parentPort } = require("node:worker_threads");
  if (isMainThread) {
    new Worker(__filename).on("message", (text) => console.log(text));
  } else {
    const { VllmModel } = require("tritonode");
    VllmModel.load({ engine: ${JSON.stringify(tinyEngine)} }).then(async (model) => {
      const { text } = await model.generate("Hello", { max_tokens: 4, temperature: 0, ignore_eos: true });
      await model.dispose();
      const addon = process.report.getReport().sharedObjects.filter((path) => path.endsWith(".node"));
      parentPort.postMessage(JSON.stringify({ text: text.length > 0, addon }));
    });
  }`;

/** The README's program with adapters, on the workspace of the tests. */
function adaptersProgram(): string {
  const code = snippetsOf("README.md").find((snippet) => snippet.code.includes("loras:"))?.code ?? "";
  const weights = join(paths.workspace, "weights");
  return code
    .replace('"./my-model"', JSON.stringify(join(weights, "backbone/smollm2-135m-instruct")))
    .replaceAll('"./adapters/pirate"', JSON.stringify(join(weights, "loras/alpaca")))
    .replaceAll('"./adapters/json"', JSON.stringify(join(weights, "loras/bactrian")));
}

/** Takes the right to write from a folder and all in it, or gives it back. */
function setWritable(path: string, writable: boolean): void {
  const stat = lstatSync(path);
  if (stat.isSymbolicLink()) return;
  chmodSync(path, writable ? stat.mode | 0o200 : stat.mode & ~0o222);
  if (stat.isDirectory()) for (const name of readdirSync(path)) setWritable(join(path, name), writable);
}

describe.each(Object.entries(matrix.nodes))("Node %s", (name, node) => {
  let machine: Machine;
  let app = "";

  beforeAll(() => {
    machine = new Machine(join(folder, `machine ${name}`), node);
    app = application(join(folder, `app ${name}`));
  });

  test("npm install needs no compiler, no script and no network", () => {
    const run = machine.node(app, npm, "install", "--offline", "--foreground-scripts", tarball);
    expect(run.stderr).toBe("");
    expect(run.stdout).not.toMatch(/node-gyp|> tritonode/);
    expect(run.status).toBe(0);
    expect(readdirSync(join(app, "node_modules")).filter((entry) => !entry.startsWith("."))).toEqual(["tritonode"]);
  });

  test("import and require give the same classes, and load nothing native", () => {
    writeFileSync(join(app, "imports.mjs"), imports);
    const run = machine.node(app, "imports.mjs");
    expect(run.stderr).toBe("");
    expect(JSON.parse(run.stdout)).toEqual({ same: true, kind: "function", native: [] });
  });

  test("a model in a worker thread, on the addon of the package", () => {
    writeFileSync(join(app, "worker.cjs"), worker);
    const run = machine.node(app, "worker.cjs");
    expect(run.stderr).toBe("");
    const { text, addon } = JSON.parse(run.stdout) as { text: boolean; addon: string[] };
    expect(text).toBe(true);
    expect(addon).toEqual([
      join(app, "node_modules/tritonode/prebuilds", `linux-${process.arch}`, "tritonode.glibc.node"),
    ]);
  });

  test("TypeScript finds the types from ES modules and CommonJS", () => {
    writeFileSync(
      join(app, "tsconfig.json"),
      JSON.stringify({
        compilerOptions: {
          module: "node16",
          moduleResolution: "node16",
          target: "ES2022",
          lib: ["ES2022", "ESNext.Disposable"],
          strict: true,
          noEmit: true,
          types: ["node"],
          typeRoots: [join(root, "node_modules/@types")],
        },
        include: ["*.mts", "*.cts"],
      }),
    );
    const use = `
      export async function main(): Promise<string> {
        const model = await VllmModel.load({ modelRepository: "x" });
        const { text } = await model.generate("y", { lora: "z", max_tokens: 3 });
        return text;
      }`;
    writeFileSync(join(app, "esm.mts"), `import { VllmModel } from "tritonode";${use}`);
    writeFileSync(join(app, "cjs.cts"), `import { VllmModel } from "tritonode";${use}`);
    const compiler = join(root, "node_modules/typescript/bin/tsc");
    const run = machine.node(app, compiler, "-p", app);
    expect(run.stdout + run.stderr).toBe("");
    expect(run.status).toBe(0);
    writeFileSync(join(app, "cjs.cts"), `import { VllmModel } from "tritonode"; VllmModel.load({ engine: 3 });`);
    expect(machine.node(app, compiler, "-p", app).stdout).toContain("cjs.cts");
  });

  test("npm ci --ignore-scripts, then the README's program with adapters, for a user who may not write there", () => {
    const other = application(join(folder, `ci ${name}`));
    for (const file of ["package.json", "package-lock.json"]) copyFileSync(join(app, file), join(other, file));
    const install = machine.node(other, npm, "ci", "--ignore-scripts", "--offline");
    expect(install.stderr).toBe("");
    expect(install.status).toBe(0);
    writeFileSync(join(other, "lines.mjs"), adaptersProgram());
    const installed = join(other, "node_modules/tritonode");
    setWritable(other, false);
    afterAll(() => setWritable(other, true));
    const write = `require("fs").writeFileSync(${JSON.stringify(join(installed, "backends/vllm/x"))}, "")`;
    expect(machine.unprivileged(other, "--eval", write).stderr).toContain("EACCES");
    const run = machine.unprivileged(other, "lines.mjs");
    expect(run.stderr).toBe("");
    expect(run.stdout).toContain("Arrr");
    expect(run.stdout).toContain('{"answer": ');
    expect(run.status).toBe(0);
    const doctor = machine.unprivileged(other, join(installed, "dist/cli/main.js"), "doctor", "--json");
    const lines = doctor.stdout.trimEnd().split("\n");
    const checks = lines.map((line) => JSON.parse(line) as { name: string; status: string; detail: string });
    expect(checks.find((check) => check.name === "addon")).toMatchObject({
      status: "ok",
      detail: expect.stringContaining("prebuilds"),
    });
  });
});

/** Each installs into a folder of its own; then the tiny model answers in a worker thread. */
describe.each([
  ["pnpm", (tar: string) => [matrix.pnpm ?? "", "add", "--offline", tar], []],
  ["Yarn 1", (tar: string) => [matrix.yarn ?? "", "add", "--offline", tar], []],
  ["Yarn 4 with node_modules", (tar: string) => [matrix.berry ?? "", "add", `tritonode@file:${tar}`], []],
  [
    "Yarn 4 with Plug'n'Play",
    (tar: string) => [matrix.berry ?? "", "add", `tritonode@file:${tar}`],
    ["--require", "./.pnp.cjs"],
  ],
] as const)("%s", (name, add, flags) => {
  const reason = "needs other lines of Node and package managers, runs by `npm run matrix:node`";
  test("installs it, and a model answers", unless(matrix.pnpm === undefined, reason), () => {
    const [version = "", node = ""] = Object.entries(matrix.nodes).find(([key]) => key.startsWith("v22")) ?? [];
    const machine = new Machine(join(folder, `machine ${name}`), node);
    const app = application(join(folder, `${name} ${version}`));
    if (name.startsWith("Yarn 4")) {
      const linker = flags.length > 0 ? "pnp" : "node-modules";
      writeFileSync(join(app, ".yarnrc.yml"), `nodeLinker: ${linker}\nenableNetwork: false\n`);
      // Without a lock of its own Yarn takes the nearest folder above that has one for the project.
      writeFileSync(join(app, "yarn.lock"), "");
    }
    const install = machine.node(app, ...add(tarball));
    expect(install.status, install.stdout + install.stderr).toBe(0);
    writeFileSync(join(app, "worker.cjs"), worker);
    const run = machine.node(app, ...flags, "worker.cjs");
    expect(run.stderr).toBe("");
    const { text, addon } = JSON.parse(run.stdout) as { text: boolean; addon: string[] };
    expect(text).toBe(true);
    expect(addon).toEqual([expect.stringMatching(/prebuilds\/linux-\w+\/tritonode\.glibc\.node$/)]);
  });
});

test("it carries what a user needs and nothing else", () => {
  const app = application(join(folder, "contents"));
  const machine = new Machine(join(folder, "machine"), process.execPath);
  machine.node(app, npm, "install", "--offline", tarball);
  const installed = join(app, "node_modules/tritonode");
  for (const path of [
    "dist/index.mjs",
    "dist/index.d.ts",
    "dist/cli/main.js",
    "backends/vllm/model.py",
    "native/sources.txt",
    "headers/node-addon-api/napi.h",
    "README.md",
    "LICENSE",
  ]) {
    expect(existsSync(join(installed, path)), path).toBe(true);
  }
  for (const path of ["test", "bench", "examples", "build", "binding.gyp", "backends/vllm/__pycache__"]) {
    expect(existsSync(join(installed, path)), path).toBe(false);
  }
  const manifest = JSON.parse(readFileSync(join(installed, "package.json"), "utf8")) as Record<string, unknown>;
  expect(manifest["dependencies"]).toBeUndefined();
  for (const hook of ["preinstall", "install", "postinstall"]) expect(manifest["scripts"]).not.toHaveProperty(hook);
});

test.each([
  ["darwin", "arm64"],
  ["win32", "x64"],
])("npm installs it on %s-%s as well", (os, cpu) => {
  const app = application(join(folder, `on ${os}`));
  const machine = new Machine(join(folder, `machine ${os}`), process.execPath);
  const run = machine.node(app, npm, "install", "--offline", `--os=${os}`, `--cpu=${cpu}`, tarball);
  expect(run.stderr).toBe("");
  expect(run.status).toBe(0);
  expect(existsSync(join(app, "node_modules/tritonode/dist/index.js"))).toBe(true);
});

test("source maps point at files that are shipped", () => {
  const app = application(join(folder, "maps"));
  new Machine(join(folder, "machine maps"), process.execPath).node(app, npm, "install", "--offline", tarball);
  const dist = join(app, "node_modules/tritonode/dist");
  const maps = readdirSync(dist, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".map"));
  expect(maps.length).toBeGreaterThan(50);
  for (const map of maps) {
    const { sources } = JSON.parse(readFileSync(join(dist, map), "utf8")) as { sources: string[] };
    for (const source of sources) expect(existsSync(join(dist, map, "..", source)), `${map}: ${source}`).toBe(true);
  }
});

test("packing it twice gives the same bytes, whatever the files' times", () => {
  const again = pack(application(join(folder, "again")));
  expect(readFileSync(again).equals(readFileSync(tarball))).toBe(true);
});

test("the README's links lead somewhere from npm's page too", () => {
  // npm resolves relative links against `repository`: they are files of this repository.
  const { repository } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
    repository: { url: string };
  };
  expect(repository.url).toMatch(/^git\+https:\/\/github\.com\/[\w-]+\/[\w-]+\.git$/);
  const links = [...readFileSync(join(root, "README.md"), "utf8").matchAll(/\]\(([^)]+)\)/g)].map(
    (match) => match[1] ?? "",
  );
  expect(links.length).toBeGreaterThan(5);
  for (const link of links.filter((target) => !/^(https:|#)/.test(target))) {
    expect(existsSync(join(root, link.split("#")[0] ?? "")), link).toBe(true);
  }
});

describe("building it from source", () => {
  test("works in the installed package with a compiler alone, and says which is missing without one", () => {
    const app = application(join(folder, "build"));
    const machine = new Machine(join(folder, "machine build"), process.execPath);
    machine.node(app, npm, "install", "--offline", tarball);
    const cli = join(app, "node_modules/tritonode/dist/cli/main.js");
    const without = machine.node(app, cli, "build");
    expect(without.stderr).toContain("none of c++, g++, clang++ is on PATH");
    expect(without.stderr).toContain("apt-get install g++");
    expect(without.status).toBe(1);

    const installed = join(app, "node_modules/tritonode");
    for (const path of ["prebuilds", "build"]) rmSync(join(installed, path), { recursive: true, force: true });
    const doctor = machine.node(app, cli, "doctor");
    expect(doctor.stdout).toMatch(/FAIL {2}addon/);
    expect(doctor.stdout).toContain("npx tritonode build");
    // Without optimisation, last on the command line: `npm test` has compiled the same sources with -O3 already, and a
    // second time takes minutes.
    const compiler = join(folder, "quick compiler");
    writeFileSync(compiler, '#!/bin/sh\nexec g++ "$@" -O0\n', { mode: 0o755 });
    machine.provide("g++", "as", "ld");
    machine.environment["CXX"] = compiler;
    const built = machine.node(app, cli, "build");
    expect(built.stderr).not.toContain("error");
    expect(built.status).toBe(0);
    expect(readdirSync(join(installed, "build/Release")).sort()).toEqual([
      "libtritonode_punica.so",
      "libtritonode_warm.so",
      "tritonode.node",
    ]);
    writeFileSync(join(app, "worker.cjs"), worker);
    const run = machine.node(app, "worker.cjs");
    expect(run.stderr).toBe("");
    expect((JSON.parse(run.stdout) as { addon: string[] }).addon).toEqual([
      join(installed, "build/Release/tritonode.node"),
    ]);
  }, 900_000);

  test("a compiler without C++20 is refused by name", () => {
    const machine = new Machine(join(folder, "machine old"), process.execPath);
    const old = join(folder, "old compiler");
    writeFileSync(old, "#!/bin/sh\necho 'error: unrecognized command line option -std=c++20' >&2\nexit 1\n", {
      mode: 0o755,
    });
    machine.environment["CXX"] = old;
    const run = machine.node(folder, join(root, "dist/cli/main.js"), "build");
    expect(run.stderr).toContain(`${old}: error: unrecognized command line option -std=c++20`);
    expect(run.stderr).toContain("GCC 11");
    expect(run.status).toBe(1);
  });
});
