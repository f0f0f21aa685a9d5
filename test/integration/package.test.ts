import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { temporaryFolder } from "../support/models";
import { root } from "../support/paths";

// The package as npm would install it, used from another folder.

const folder = temporaryFolder();
const app = join(folder, "an app");

beforeAll(() => {
  mkdirSync(join(app, "node_modules"), { recursive: true });
  const npm = process.env["npm_execpath"] ?? execFileSync("sh", ["-c", "command -v npm"], { encoding: "utf8" }).trim();
  const run = (...args: string[]) =>
    execFileSync(process.execPath, [npm, ...args], {
      cwd: folder,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
  const packed = JSON.parse(run("pack", root, "--json", "--ignore-scripts")) as { filename: string }[];
  writeFileSync(join(app, "package.json"), '{ "name": "app", "private": true }');
  execFileSync("tar", ["-xzf", join(folder, packed[0]?.filename as string), "-C", folder]);
  execFileSync("mv", [join(folder, "package"), join(app, "node_modules/tritonode")]);
});

function node(...args: string[]) {
  return spawnSync(process.execPath, args, { cwd: app, encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } });
}

describe("loading it", () => {
  test("import and require give the same classes, and load nothing native", () => {
    const script = `
      import { createRequire } from "node:module";
      import { VllmModel, AdapterNotFoundError, findRuntime } from "tritonode";
      const cjs = createRequire(import.meta.url)("tritonode");
      const native = process.report.getReport().sharedObjects.filter((path) => path.includes("tritonode.node"));
      console.log(JSON.stringify({
        same: cjs.VllmModel === VllmModel && cjs.AdapterNotFoundError === AdapterNotFoundError,
        kind: typeof findRuntime,
        native,
      }));`;
    const run = node("--input-type=module", "--eval", script);
    expect(run.stderr).toBe("");
    expect(JSON.parse(run.stdout)).toEqual({ same: true, kind: "function", native: [] });
  });

  test("a missing runtime is an error of load, with the command that mends it; never of import", () => {
    const script = `
      const { VllmModel } = require("tritonode");
      VllmModel.load({ engine: { model: "x" }, runtime: "/nowhere" }).catch((error) => console.log(error.code, error.hint));`;
    const run = node("--eval", script);
    expect(run.stdout).toMatch(/^ERR_RUNTIME_MISSING run: npx tritonode setup/);
    expect(run.status).toBe(0);
  });

  test("without an addon for this Node: what was tried, and how to build it", () => {
    const script = `
      const { VllmModel, findRuntime } = require("tritonode");
      VllmModel.load({ engine: { model: "x" } }).catch((error) => console.log(error.code + "\\n" + error.message + "\\n" + error.hint));`;
    const run = node("--eval", script);
    expect(run.stdout).toContain("ERR_ADDON_LOAD");
    expect(run.stdout).toContain(join(app, "node_modules/tritonode"));
    expect(run.stdout).toContain("native/build.mjs");
  });
});

test("types resolve for ES modules and CommonJS", () => {
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
  const run = node(join(root, "node_modules/typescript/bin/tsc"), "-p", app);
  expect(run.stdout).toBe("");
  expect(run.status).toBe(0);
});

test("it carries what a user needs and nothing else", () => {
  const installed = join(app, "node_modules/tritonode");
  for (const path of [
    "dist/index.mjs",
    "dist/index.d.ts",
    "dist/cli/main.js",
    "backends/vllm/model.py",
    "binding.gyp",
  ]) {
    expect(existsSync(join(installed, path)), path).toBe(true);
  }
  for (const path of ["test", "bench", "examples", "backends/vllm/__pycache__"]) {
    expect(existsSync(join(installed, path)), path).toBe(false);
  }
  const { dependencies } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8"));
  expect(dependencies).toEqual({ "node-gyp-build": "4.8.4" });
});
