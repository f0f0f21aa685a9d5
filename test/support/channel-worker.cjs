// A worker of test/unit/worker-descriptors.test.ts: reads a channel of deltas, closes it, and ends when it is told to.
const { execFileSync } = require("node:child_process");
const { join } = require("node:path");
const { parentPort, workerData } = require("node:worker_threads");
const { DeltaChannel } = require("../../dist/transport/deltas.js");

(async () => {
  const channel = new DeltaChannel("m", workerData.directory, (name, onAnswer) => {
    execFileSync("mkfifo", [join(workerData.directory, name)]);
    setImmediate(onAnswer);
    return { finished: new Promise(() => {}), cancel() {} };
  });
  await channel.open();
  const opened = channel.name !== undefined;
  channel.close();
  parentPort.once("message", () => parentPort.close());
  // The socket closes its descriptor in the loop's next turn.
  setTimeout(() => parentPort.postMessage({ opened }), 50);
})();
