// Run by test/unit/server-exit.test.ts: serves a model and ends in the way that argv[2] says, idle or while it streams.
const { writeSync } = require("node:fs");
const { Worker, isMainThread, workerData } = require("node:worker_threads");
const { TritonServer } = require("../../dist/server/index.js");

const { runtime, code, request, how, streaming, inWorker } = isMainThread ? JSON.parse(process.argv[2]) : workerData;

const ends = {
  normal: () => {},
  exit: () => process.exit(7),
  throw: () =>
    setImmediate(() => {
      throw new Error("on purpose");
    }),
  reject: () => void Promise.reject(new Error("on purpose")),
  SIGTERM: () => process.kill(process.pid, "SIGTERM"),
  SIGINT: () => process.kill(process.pid, "SIGINT"),
  SIGHUP: () => process.kill(process.pid, "SIGHUP"),
  SIGKILL: () => process.kill(process.pid, "SIGKILL"),
  stop: (server) => server.stop(),
  "stop after a failed reload": (server) => server.stop(),
};

const load = (server, source) =>
  server.loadModel("command", { config: { backend: "python" }, files: { "1/model.py": source } });

const streams = [];

async function serve() {
  const server = await TritonServer.start({ runtime });
  await load(server, code);
  if (streaming) {
    // Without a rejection handler of ours a stream that is cut off must not change how the process ends.
    const first = Array.from(
      { length: 64 },
      () =>
        new Promise((resolve) => {
          streams.push(server.infer({ ...request, onResponse: resolve }));
        }),
    );
    await Promise.all(first);
  }
  // Before the test's clock starts: it measures how long the end takes.
  if (how === "stop after a failed reload") {
    const failing = code.replace(
      "def initialize(self, args):",
      "def initialize(self, args):\n        raise ValueError()",
    );
    await load(server, failing).catch(() => {});
  }
  writeSync(
    1,
    JSON.stringify({
      directory: server.privateDirectory,
      prefix: server.sharedMemoryPrefix,
      children: server.children.map((child) => child.pid),
    }),
  );
  return server;
}

(async () => {
  if (inWorker && isMainThread) {
    const worker = new Worker(__filename, { workerData: JSON.parse(process.argv[2]), stdout: false });
    // The worker runs its own end (process.exit ends only the thread there) or is terminated from here.
    worker.on("error", () => {});
    if (how === "terminate") {
      await new Promise((resolve) => worker.once("message", resolve));
      await worker.terminate();
    } else {
      await new Promise((resolve) => worker.once("exit", resolve));
    }
    return;
  }
  const server = await serve();
  if (how === "terminate") {
    require("node:worker_threads").parentPort.postMessage("up");
    return;
  }
  // While streaming, nothing ends by itself: the requests keep the event loop alive.
  if (how === "normal" && streaming) {
    for (const stream of streams) stream.cancel();
    return;
  }
  await ends[how](server);
})();
