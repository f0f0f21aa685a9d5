// `npm run test:bundlers`: packs the package, installs the tarball, builds app.mjs and the Next.js app with each tool, and
// runs what came out from another folder, with the tests' tiny model. Then the same with the package bundled in: the error
// has to say what to do. Needs what `npm test` lays out; arguments pick the tools (`npm run test:bundlers -- esbuild`).
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { build, cache, main, prepared, root, say } from "../../scripts/steps.mjs";
import { serveNext } from "./next-server.mjs";

const adapter = "lora_a";
const next = ["node_modules/next/dist/bin/next", "build"];
const env = { ...process.env, NEXT_TELEMETRY_DISABLED: "1" };

/** Runs a program to its end. */
function attempt(cwd, command, ...args) {
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, env, encoding: "utf8", maxBuffer: 1 << 26 });
  return { status, stdout, stderr };
}

/** Runs a program that must succeed; gives what it wrote. */
function must(cwd, command, ...args) {
  const { status, stdout, stderr } = attempt(cwd, command, ...args);
  if (status !== 0) throw new Error(`${[command, ...args].join(" ")} ended with ${status}:\n${stdout}\n${stderr}`);
  return stdout;
}

function npm(cwd, ...args) {
  const quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"];
  return must(cwd, process.execPath, process.env.npm_execpath, ...args, ...quiet);
}

/** A model repository with the tests' tiny model and one adapter of it. */
function writeRepository(folder) {
  const { fixtures } = JSON.parse(readFileSync(join(cache, "paths.json"), "utf8"));
  const { models, adapters } = JSON.parse(readFileSync(join(fixtures, "fixtures.json"), "utf8"));
  const version = join(folder, "vllm_model/1");
  mkdirSync(version, { recursive: true });
  writeFileSync(
    join(folder, "vllm_model/config.pbtxt"),
    'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n',
  );
  const engine = { model: models.tiny, max_model_len: 512, kv_cache_memory_bytes: 256 << 20, enforce_eager: true };
  writeFileSync(join(version, "model.json"), JSON.stringify({ ...engine, enable_lora: true }));
  writeFileSync(join(version, "multi_lora.json"), JSON.stringify({ [adapter]: adapters[adapter] }));
  return folder;
}

/** The packed package, installed into a copy of this folder (the tools beside it) and alone, as on a production machine. */
function install(folder) {
  const [{ filename }] = JSON.parse(npm(root, "pack", "--json", "--pack-destination", folder));
  const tarball = join(folder, filename);
  const project = join(folder, "project");
  for (const name of readdirSync(import.meta.dirname)) {
    // The Next.js app lies at the project's root, where its users have it.
    const target = name === "next" ? project : join(project, name);
    if (name !== "node_modules") cpSync(join(import.meta.dirname, name), target, { recursive: true });
  }
  npm(project, "ci");
  npm(project, "install", "--no-save", tarball);
  const production = join(folder, "production");
  mkdirSync(production);
  writeFileSync(join(production, "package.json"), '{ "name": "an-app", "private": true }');
  npm(production, "install", tarball);
  return { project, production };
}

function version(project, name) {
  return `${name} ${JSON.parse(readFileSync(join(project, "node_modules", name, "package.json"), "utf8")).version}`;
}

function checkHint(text, ...parts) {
  assert.match(text, /ERR_PACKAGE_FILES/);
  for (const part of parts) assert.ok(text.includes(part), `${JSON.stringify(part)} is missing in: ${text}`);
}

/** Built as the example says, and run beside a node_modules that holds the package alone. */
function tryBundle({ project, production }, folder, repository, command, output) {
  must(project, process.execPath, ...command);
  const target = join(production, basename(output));
  renameSync(join(project, output), target);
  const answer = JSON.parse(must(folder, process.execPath, target, repository, adapter));
  assert.equal(answer.tokens, 4);
  assert.notEqual(answer.text, "");
}

/** Built with the package inside: importing it works, loading a model says what to do. */
function tryBundledIn({ project, production }, folder, repository, name) {
  const target = join(production, "bundled in", name);
  must(project, process.execPath, "misconfigured.mjs", name, target);
  const [file] = readdirSync(target).filter((entry) => entry.startsWith("app."));
  const { status, stderr } = attempt(folder, process.execPath, join(target, file), repository, adapter);
  assert.equal(status, 1);
  checkHint(stderr, "external");
}

async function tryNext({ project }, folder, repository) {
  await deployNext(project, folder, repository, async (ask) => {
    const { status, text } = await ask({ prompt: "Hello, my name is", lora: adapter, maxTokens: 4 });
    assert.equal(status, 200, text);
    assert.notEqual(text, "");
  });
}

/** The Next.js app without one of its settings. */
async function tryNextWithout({ project }, folder, repository, setting) {
  const config = join(project, "next.config.mjs");
  const whole = readFileSync(config, "utf8");
  const changed = whole.replace("export default", "const config =");
  writeFileSync(config, `${changed}delete config.${setting};\nexport default config;\n`);
  await deployNext(project, folder, repository, async (ask) => {
    const { status, text } = await ask({ prompt: "x" });
    assert.equal(status, 500, text);
    checkHint(text, setting);
  });
  writeFileSync(config, whole);
}

/** Builds the Next.js app and runs its standalone output where the project is not to be found any more. */
async function deployNext(project, folder, repository, use) {
  must(project, process.execPath, ...next);
  const deployed = join(folder, "deployed");
  renameSync(join(project, ".next/standalone"), deployed);
  const away = `${project} put away`;
  renameSync(project, away);
  try {
    await serveNext(deployed, folder, repository, use);
  } finally {
    renameSync(away, project);
    for (const path of [deployed, join(project, ".next")]) rmSync(path, { recursive: true });
  }
}

main(async () => {
  prepared();
  await build();
  const only = process.argv.slice(2);
  const folder = mkdtempSync(join(tmpdir(), "tritonode bundlers "));
  try {
    say("npm pack, npm install");
    const installed = install(folder);
    const { project } = installed;
    const repository = writeRepository(join(folder, "model repository"));
    const bundle = (...rest) => tryBundle(installed, folder, repository, ...rest);
    const bundledIn = (name) => tryBundledIn(installed, folder, repository, name);
    const cases = {
      esbuild() {
        bundle(["esbuild/build.mjs"], "esbuild/out/app.mjs");
        bundledIn("esbuild-cjs");
        bundledIn("esbuild-esm");
      },
      webpack() {
        bundle(["webpack/build.mjs"], "webpack/out/app.cjs");
        bundledIn("webpack");
      },
      vite() {
        bundle(["node_modules/vite/bin/vite.js", "build", "--config", "vite/vite.config.mjs"], "vite/out/app.mjs");
        bundledIn("vite");
      },
      async next() {
        await tryNext(installed, folder, repository);
        for (const setting of ["serverExternalPackages", "outputFileTracingIncludes"]) {
          await tryNextWithout(installed, folder, repository, setting);
        }
      },
    };
    const names = only.length === 0 ? Object.keys(cases) : only;
    for (const name of names) {
      say(version(project, name));
      await cases[name]();
    }
    console.log(`${names.length} passed, 0 failed`);
  } finally {
    if (process.env.KEEP === undefined) rmSync(folder, { recursive: true, force: true });
  }
});
