// Run by addon.mjs: every function of the addon, from the main thread and from workers that end in the middle of a stream.
const assert = require("node:assert/strict");
const { mkdirSync, mkdtempSync, writeFileSync } = require("node:fs");
const { tmpdir } = require("node:os");
const { join } = require("node:path");
const { Worker, isMainThread, workerData, parentPort } = require("node:worker_threads");

const [file, library] = isMainThread ? process.argv.slice(2) : workerData;
const module_ = { exports: {} };
process.dlopen(module_, file);
const addon = module_.exports;

const seen = { responses: new Map(), lines: 0, children: 0 };
const kinds = addon.eventTable.events;

/** Takes a batch apart by the addon's own table. */
function deliver(batch) {
  for (let at = 0; at < batch.length; ) {
    const [kind, ...fields] = kinds[batch[at]];
    const event = Object.fromEntries(fields.map((field, i) => [field, batch[at + 1 + i]]));
    at += 1 + fields.length;
    if (kind === "log") ++seen.lines;
    else if (kind === "child") ++seen.children;
    else seen.responses.set(event.call, [...(seen.responses.get(event.call) ?? []), event]);
  }
}

async function until(condition) {
  const end = Date.now() + 30_000;
  while (!condition()) {
    assert.ok(Date.now() < end, `not within 30 s: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const ended = (call) => seen.responses.get(call)?.at(-1)?.last === true;

function request(model, text, more = {}) {
  return {
    model,
    id: "id",
    inputs: [{ name: "in", datatype: 2, shape: [text.length], data: new TextEncoder().encode(text) }],
    parameters: ["a", "b", "c", 1, "d", true, "e", 2n ** 60n],
    ...more,
  };
}

function options() {
  const privateDirectory = mkdtempSync(join(tmpdir(), "tritonode-test-"));
  mkdirSync(join(privateDirectory, "children"));
  return {
    library,
    privateDirectory,
    shmPrefix: `tritonode_test_${process.pid}_`,
    description: "described",
    serverId: "id",
    backendDirectory: "/none",
    modelRepositories: ["/none"],
    backendConfig: [["python", "a", "b"]],
    exitTimeoutSeconds: 1,
    cudaMemoryPoolBytes: [1024],
  };
}

/** What is wrong must be an exception, not a crash. */
async function refusals() {
  const bad = [
    undefined,
    null,
    1,
    "text",
    [],
    {},
    { model: 1 },
    { model: "echo", inputs: [1] },
    { model: "echo", inputs: [{}] },
  ];
  const data = ["text", [1], [Symbol("s")], null, 5n];
  for (const value of data)
    bad.push(request("echo", "x", { inputs: [{ name: "in", datatype: 13, shape: ["a"], data: value }] }));
  bad.push(request("echo", "x", { parameters: ["a", {}] }), request("echo", "x", { version: Number.NaN }));
  for (const value of bad) assert.throws(() => addon.infer(value));
  for (const value of [undefined, {}, { library: 5 }]) {
    await assert.rejects(async () => addon.start(value));
  }
  for (const name of ["loadModel", "unloadModel", "modelMetadata", "registerRepository", "acquireShared"]) {
    await assert.rejects(async () => addon[name](Symbol("s")));
  }
}

async function serve() {
  const calls = [];
  for (let i = 0; i < 200; ++i) calls.push(addon.infer(request("stream", `text ${i}`, { raw: i % 2 === 0 })));
  for (const model of ["echo", "error", "twice", "reordered", "synchronous", "late"])
    calls.push(addon.infer(request(model, "x")));
  // Few: under ASan more of them would send faster than one thread reads.
  const endless = Array.from({ length: 4 }, () => addon.infer(request("endless", "y".repeat(100))));
  await until(() => endless.every((call) => seen.responses.has(call)));
  for (const [i, call] of endless.entries()) (i % 2 === 0 ? addon.cancel : addon.abandon)(call);
  await until(() => calls.every(ended) && endless.every((call, i) => i % 2 === 1 || ended(call)));
  assert.equal(seen.responses.get(calls[1]).length, 11);
  assert.equal(seen.responses.get(calls[200]).at(-1).outputs.length > 0, true);
  for (const call of [...calls, -1, 2 ** 40]) addon.cancel(call);
}

async function main() {
  addon.initialize(deliver, isMainThread);
  assert.equal(await addon.acquire(), undefined);
  await refusals();
  const given = options();
  await assert.rejects(addon.start({ ...given, library: "/nowhere.so", privateDirectory: options().privateDirectory }));
  assert.equal(await addon.acquire(), undefined);
  await addon.start(given);
  assert.equal(await addon.isLive(), true);
  assert.match(await addon.metadata(), /stand-in/);
  assert.match(await addon.metrics(), /nv_up/);
  await addon.loadModel("m", "{}", [["1/model.py", Buffer.from("pass")]]);
  assert.equal(await addon.isModelReady("m", -1), true);
  await addon.unloadModel("m", false);
  await assert.rejects(addon.modelMetadata("unknown", -1), { code: "NOT_FOUND" });
  writeFileSync(join(given.privateDirectory, "log"), "one\ntwo\n");
  assert.equal(addon.watchProcess(process.pid, "model\nregion\n"), true);
  await until(() => seen.lines >= 2 && seen.children >= 1);
  assert.equal(await addon.acquireShared("model/m", "key"), undefined);
  addon.settleShared("model/m", "up");
  assert.equal(await addon.acquireShared("model/m", "key"), "up");
  assert.equal(await addon.releaseShared("model/m"), false);
  assert.equal(await addon.retakeShared("model/m"), true);
  addon.settleShared("model/m");
  await serve();
  // Workers that end by themselves, and workers that are ended while their streams run.
  await Promise.all(
    Array.from({ length: 6 }, async (_, i) => {
      const worker = new Worker(__filename, { workerData: [file, library, i % 2 === 0] });
      const exit = new Promise((resolve) => worker.once("exit", resolve));
      await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
      if (i % 2 === 1) await worker.terminate();
      await exit;
    }),
  );
  await until(() => addon.liveCalls() === 0);
  await serve();
  assert.equal(await addon.release(), true);
  console.log("addon: ok");
}

async function work() {
  addon.initialize(deliver, isMainThread);
  assert.equal(await addon.acquire(), "described");
  if (workerData[2]) {
    await serve();
    await addon.release();
  } else {
    for (let i = 0; i < 4; ++i) addon.infer(request("endless", "z"));
    void addon.metadata();
    await until(() => seen.responses.size === 4);
  }
  parentPort.postMessage("ready");
}

(isMainThread ? main() : work()).catch((error) => {
  console.error(error);
  process.exit(1);
});
