// Runs in Node for arm64 (run.mjs): the package, its prebuilt addon, and a real Triton that serves a Python model. Node's
// own test runner, for vitest's bundler would be needed for arm64 as well.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, describe, test } from "node:test";
import { Worker } from "node:worker_threads";

const require = createRequire(import.meta.url);
const runtime = JSON.parse(process.env.TRITONODE_ARM64_RUNTIME);
const path = require.resolve("../../dist/server/index.js");
const { TritonServer } = require(path);

const model = readFileSync(new URL("../support/command_model.py", import.meta.url), "utf8");

/** Each answer begins with the machine's own name. */
const request = (command, text = ["a"]) => ({
  model: "command",
  inputs: [
    { name: "text", datatype: "BYTES", data: text },
    { name: "command", datatype: "BYTES", data: [JSON.stringify({ machine: true, ...command })] },
  ],
});

async function collect(stream) {
  const texts = [];
  for await (const { outputs } of stream) texts.push(outputs.out.data);
  return texts;
}

async function until(condition) {
  const end = Date.now() + 60_000;
  while (!condition()) {
    assert.ok(Date.now() < end, `not within a minute: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("this is arm64", () => assert.equal(process.arch, "arm64"));

test("import and require give the same classes, and load nothing native", async () => {
  const esm = await import("../../dist/index.mjs");
  assert.equal(esm.VllmModel, require("../../dist/index.js").VllmModel);
  assert.deepEqual(sharedObjects(), []);
});

test("without a runtime: the command that installs it", async () => {
  const { VllmModel } = require("../../dist/index.js");
  const load = VllmModel.load({ engine: { model: "x" }, runtime: "/nowhere" });
  await assert.rejects(load, { code: "ERR_RUNTIME_MISSING", hint: /npx tritonode setup/ });
});

describe("Triton in this process", () => {
  const log = [];
  let server;
  before(async () => {
    const write = (message) => log.push(message);
    server = await TritonServer.start({ runtime, logger: { debug: write, info: write, warn: write, error: write } });
    await server.loadModel("command", { config: { backend: "python" }, files: { "1/model.py": model } });
  });
  after(async () => {
    await server.stop();
    assert.deepEqual(
      readdirSync("/dev/shm").filter((name) => name.startsWith(server.sharedMemoryPrefix)),
      [],
    );
  });

  test("the addon is the prebuilt one", () => {
    assert.equal(sharedObjects().length, 1);
    assert.match(sharedObjects()[0], /prebuilds\/linux-arm64\/tritonode\.glibc\.node$/);
  });

  test("tells what it is", async () => {
    assert.equal(await server.isReady(), true);
    assert.match((await server.metadata()).version, /^2\.\d+\.\d+$/);
    assert.deepEqual(await server.repositoryIndex(), [{ name: "command", version: "1", state: "READY" }]);
  });

  test("streams what the Python child answers", async () => {
    const line = ["aarch64", "héllo", "😀"];
    assert.deepEqual(await collect(server.infer(request({ count: 3 }, line.slice(1)))), [line, line, line]);
  });

  test("refuses arguments that make no sense", async () => {
    const refused = { code: "ERR_INVALID_ARGUMENT" };
    assert.throws(() => server.infer({ ...request({}), deadline: -1 }), refused);
    assert.throws(() => server.infer({ ...request({}), version: 0 }), refused);
    assert.throws(() => server.infer({ model: "", inputs: [] }), refused);
    await assert.rejects(server.infer({ ...request({}), model: "nobody" }).response(), {
      code: "ERR_TRITON_NOT_FOUND",
    });
    await assert.rejects(server.infer({ model: "command", inputs: [] }).response(), { code: "ERR_TRITON_INVALID_ARG" });
  });

  test("rejects with the backend's error", async () => {
    await assert.rejects(collect(server.infer(request({ error: "no such thing" }))), /no such thing/);
  });

  test("cancels in Triton when the consumer leaves", async () => {
    for await (const _ of server.infer(request({ count: 100_000, sleep: 0.01 }))) break;
    await until(() => log.some((line) => line.startsWith("cancelled after")));
    await until(() => server.runningRequests === 0);
  });

  test("answers a hundred requests at once, each with its own answer", async () => {
    const names = Array.from({ length: 100 }, (_, i) => `request ${i}`);
    const answers = await Promise.all(names.map((name) => collect(server.infer(request({}, [name])))));
    assert.deepEqual(
      answers,
      names.map((name) => [["aarch64", name]]),
    );
  });

  test("is shared with a worker thread", async () => {
    const source = `
      const { workerData, parentPort } = require("node:worker_threads");
      const { TritonServer } = require(workerData.path);
      (async () => {
        const server = await TritonServer.start({ runtime: workerData.runtime });
        const texts = [];
        for await (const { outputs } of server.infer(workerData.request)) texts.push(outputs.out.data);
        await server.stop();
        parentPort.postMessage(texts);
      })();`;
    const worker = new Worker(source, { eval: true, workerData: { path, runtime, request: request({}, ["b"]) } });
    const texts = await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    assert.deepEqual(texts, [["aarch64", "b"]]);
  });

  test("rejects when the child is killed, and serves again after a load", async () => {
    const stream = collect(server.infer(request({ count: 100_000, sleep: 0.01 })));
    const outcome = assert.rejects(stream, { code: "ERR_ENGINE_DIED" });
    await until(() => server.children.some((child) => child.model === "command"));
    process.kill(server.children.find((child) => child.model === "command").pid, "SIGKILL");
    await outcome;
    await server.loadModel("command", { config: { backend: "python" } });
    assert.deepEqual(await collect(server.infer(request({}))), [["aarch64", "a"]]);
  });
});

function sharedObjects() {
  return process.report.getReport().sharedObjects.filter((name) => name.endsWith(".node"));
}
