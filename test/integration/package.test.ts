import { chmodSync, copyFileSync, existsSync, lstatSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { application, Machine, matrix, npm, pack } from "../support/install";
import { temporaryFolder, tinyEngine } from "../support/models";
import { paths, root } from "../support/paths";

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

/** The README's ten lines, on the workspace of the tests. */
function tenLines(): string {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const code = /```js\n(import \{ VllmModel \}[\s\S]*?)```/.exec(readme)?.[1] ?? "";
  expect(code).toContain("./workspace/model_repository");
  return code.replace("./workspace/", `${paths.workspace}/`);
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

  test("npm ci --ignore-scripts, then the README's ten lines, for a user who may not write there", () => {
    const other = application(join(folder, `ci ${name}`));
    for (const file of ["package.json", "package-lock.json"]) copyFileSync(join(app, file), join(other, file));
    const install = machine.node(other, npm, "ci", "--ignore-scripts", "--offline");
    expect(install.stderr).toBe("");
    expect(install.status).toBe(0);
    writeFileSync(join(other, "lines.mjs"), tenLines());
    const installed = join(other, "node_modules/tritonode");
    setWritable(other, false);
    afterAll(() => setWritable(other, true));
    const write = `require("fs").writeFileSync(${JSON.stringify(join(installed, "backends/vllm/x"))}, "")`;
    expect(machine.unprivileged(other, "--eval", write).stderr).toContain("EACCES");
    const run = machine.unprivileged(other, "lines.mjs");
    expect(run.stderr).toBe("");
    expect(run.stdout).toContain("Arrr");
    expect(run.stdout).toMatch(/\{"answer": .*\} (stop|length) \{/);
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
