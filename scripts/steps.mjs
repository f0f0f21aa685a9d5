// The set-up that `npm run demo`, `npm test` and `npm run bench` share: each step runs when it has something to do, says
// what it does, and is skipped in a moment when it has nothing to do. Node's own modules only: it runs before `npm ci`.
import { spawn } from "node:child_process";
import { cpSync, existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { constants } from "node:os";
import { delimiter, dirname, join } from "node:path";
import { setTimeout } from "node:timers/promises";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));
export const cache = join(root, ".cache");

/** Programs that run now: each with `signal`, which reaches those that it has started too. */
const children = new Set();
let interrupted;

/** How long programs may take to end in good order after a signal, ms; a second signal ends them at once. */
const GRACE = 20_000;

// This process waits for its programs and then ends as a signal would end it. Ctrl-C reaches those in the terminal's
// own process group twice, once by the terminal: they take no harm from that.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
  process.on(signal, () => {
    const again = interrupted !== undefined;
    interrupted = signal;
    endAll(again ? "SIGKILL" : signal);
    setTimeout(GRACE, "SIGKILL").then(endAll);
    endIfInterrupted();
  });
}

function endAll(signal) {
  for (const child of children) child.signal(signal);
}

function endIfInterrupted() {
  if (interrupted !== undefined && children.size === 0) process.exit(128 + constants.signals[interrupted]);
}

/**
 * Resolves with a program's exit code; never, once this process was interrupted.
 *
 * @param signal sends a signal, 0 to ask; returns whether there is somebody to get it
 */
function ended(child, signal) {
  return new Promise((resolve, reject) => {
    const entry = { signal };
    children.add(entry);
    child.on("error", (error) => {
      children.delete(entry);
      endIfInterrupted();
      if (interrupted === undefined) reject(error);
    });
    child.on("close", async (code, signalled) => {
      // What it has started may still be cleaning up; `GRACE` bounds that.
      while (interrupted !== undefined && signal(0)) await setTimeout(50);
      children.delete(entry);
      endIfInterrupted();
      if (interrupted === undefined) resolve(code ?? 128 + constants.signals[signalled]);
    });
  });
}

/**
 * Starts a program with this terminal; resolves with its exit code. With `onOutput` it gets no terminal but a process
 * group of its own, and what it writes is passed on as text.
 */
export function start(command, args, { onOutput, ...options } = {}) {
  if (onOutput === undefined) {
    const child = spawn(command, args, { cwd: root, stdio: "inherit", ...options });
    return ended(child, (signal) => child.kill(signal));
  }
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "pipe"], detached: true, ...options });
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding("utf8").on("data", onOutput);
  return ended(child, (signal) => {
    try {
      return process.kill(-child.pid, signal);
    } catch {
      return false;
    }
  });
}

/** Runs a program that must succeed. */
export async function run(command, args, options) {
  const code = await start(command, args, options);
  if (code !== 0) throw new Error(`${[command, ...args].join(" ")} ended with exit code ${code}`);
}

/** Runs a program that must succeed, and resolves with what it wrote to stdout. */
export async function output(command, args, options = {}) {
  let text = "";
  const child = spawn(command, args, { cwd: root, stdio: ["ignore", "pipe", "inherit"], ...options });
  child.stdout.setEncoding("utf8").on("data", (chunk) => {
    text += chunk;
  });
  const code = await ended(child, (signal) => child.kill(signal));
  if (code !== 0) throw new Error(`${[command, ...args].join(" ")} ended with exit code ${code}`);
  return text;
}

/** Runs a script's body; a step that failed has said why on its own, so one line is enough here. */
export function main(body) {
  body().catch((error) => {
    process.stderr.write(`failed: ${error.message}\n`);
    process.exitCode = 1;
  });
}

/** The program of that name on PATH; undefined where there is none. */
export function onPath(name) {
  const folders = (process.env.PATH ?? "").split(delimiter).filter((folder) => folder !== "");
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path));
}

export function say(text) {
  const bold = process.stdout.isTTY && !process.env.NO_COLOR;
  process.stdout.write(bold ? `\x1b[1m▸ ${text}\x1b[0m\n` : `> ${text}\n`);
}

/** Newest change under the given files and folders, in ms; 0 where there is nothing. */
function newest(paths) {
  let time = 0;
  for (const path of paths) {
    const full = join(root, path);
    if (!existsSync(full)) continue;
    const stat = statSync(full);
    if (!stat.isDirectory()) {
      time = Math.max(time, stat.mtimeMs);
      continue;
    }
    for (const name of readdirSync(full)) {
      if (name !== "node_modules" && name !== "__pycache__") time = Math.max(time, newest([join(path, name)]));
    }
  }
  return time;
}

/** Whether `target` is there and no older than what it is made of. */
export function fresh(target, sources) {
  const path = join(root, target);
  return existsSync(path) && statSync(path).mtimeMs >= newest(sources);
}

/** Installs the packages that a folder's lock names: by default those that build and test this package. */
export async function dependencies(folder = ".") {
  if (fresh(join(folder, "node_modules/.package-lock.json"), [join(folder, "package-lock.json")])) return;
  say(folder === "." ? "npm ci: the packages that build and test this one" : `npm ci: the packages of ${folder}`);
  // Not `npm` by name: where only node is on the path, npm's own program is what npm runs this script with.
  const npm = process.env.npm_execpath;
  const args = ["ci", "--no-audit", "--no-fund", "--ignore-scripts"];
  const options = { cwd: join(root, folder) };
  await (npm === undefined ? run("npm", args, options) : run(process.execPath, [npm, ...args], options));
}

/** What the native files are made of; the headers change with their package alone, not with the whole lock. */
export const NATIVE_SOURCES = ["native", "binding.gyp", "node_modules/node-addon-api/package.json"];

/** The native files and the TypeScript, as they are shipped. */
export async function build() {
  await buildAddon();
  await buildTypeScript();
}

export function isAddonFresh() {
  const names = ["tritonode.glibc.node", "libtritonode_punica.so", "libtritonode_warm.so"];
  return names.every((name) => fresh(`prebuilds/${process.platform}-${process.arch}/${name}`, NATIVE_SOURCES));
}

/** @param execute what runs a program that must succeed: `run`, or a lane's */
export async function buildAddon(execute = run) {
  if (!isAddonFresh()) {
    say("the native addon (prebuildify)");
    await execute(process.execPath, ["native/build.mjs", "--prebuild"]);
  }
  copyHeaders();
}

export async function buildTypeScript() {
  if (fresh("dist/index.mjs", ["src", "tsconfig.json", "tsconfig.build.json", "scripts/esm-entry.mjs"])) return;
  say("TypeScript");
  // What an older source left there would be shipped.
  rmSync(join(root, "dist"), { recursive: true, force: true });
  await run(process.execPath, ["node_modules/typescript/bin/tsc", "-p", "tsconfig.build.json"]);
  await run(process.execPath, ["scripts/esm-entry.mjs"]);
}

/** The headers that `tritonode build` compiles against, from the packages that this one is built with. */
function copyHeaders() {
  const files = {
    "node-addon-api": ["napi.h", "napi-inl.h", "napi-inl.deprecated.h", "LICENSE.md"],
    "node-api-headers": ["include", "LICENSE"],
  };
  for (const [name, parts] of Object.entries(files)) {
    const from = join("node_modules", name);
    if (fresh(join("headers", name, "package.json"), [join(from, "package.json")])) continue;
    rmSync(join(root, "headers", name), { recursive: true, force: true });
    for (const part of [...parts, "package.json"]) {
      cpSync(join(root, from, part), join(root, "headers", name, part), { recursive: true });
    }
  }
}

/** Fails unless `npm test` has laid out the models and adapters of the tests. */
export function prepared() {
  if (!existsSync(join(cache, "paths.json"))) throw new Error("run this first: npm test -- test/unit");
}

/** Lays out the tiny models and adapters and the tutorial's workspace; resolves with their folders. */
export async function models(python, execute = run) {
  const fixtures = join(cache, "fixtures");
  await output(python, ["test/fixtures/make_fixtures.py", "--out", fixtures]);
  const workspace = join(cache, "workspace");
  await execute(python, ["examples/tutorial/workspace.py", "--out", workspace]);
  return { fixtures, workspace };
}

/** Makes the runtime that TRITONODE_RUNTIME_DIR names, or the usual one; resolves with its description. */
export async function runtime(extras, execute = run) {
  await execute(process.execPath, ["dist/cli/main.js", "setup", "--device", "cpu", "--with", extras.join(",")]);
  const { findRuntime } = await import(join(root, "dist/index.js"));
  return findRuntime({ device: "cpu" });
}
