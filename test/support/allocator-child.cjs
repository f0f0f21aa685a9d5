// Run by test/chaos/allocator.test.ts: kills its Python child while that holds the lock of their shared memory's
// allocator, with the tree of free blocks half-linked, and goes on serving.
const { readFileSync, openSync, readSync, writeSync, closeSync, existsSync } = require("node:fs");
const { setTimeout: pause } = require("node:timers/promises");
const { TritonServer } = require(process.argv[3] ?? "../../dist/server/index.js");

const { runtime, code, request, rounds } = JSON.parse(process.argv[2]);

/** Sends the child SIGSTOP and SIGCONT until it is stopped inside the allocator. */
async function stopInAllocator(pid, file) {
  const lock = Buffer.alloc(16);
  const at = readFileSync(`/dev/shm/${file}`).indexOf("shm_mutex\0") - 40;
  const fd = openSync(`/dev/shm/${file}`, "r+");
  for (let i = 0; i < 50_000; ++i) {
    process.kill(pid, "SIGSTOP");
    while (!/\) T/.test(readFileSync(`/proc/${pid}/stat`, "latin1"))) await pause(0);
    readSync(fd, lock, 0, 16, at);
    const owner = lock.readInt32LE(8);
    if (owner !== 0 && existsSync(`/proc/${pid}/task/${owner}`)) return fd;
    process.kill(pid, "SIGCONT");
    await pause(1 + (i % 3));
  }
  throw new Error("the child was never inside the allocator");
}

async function serve(server) {
  const streams = Array.from({ length: 32 }, () => server.infer(request));
  await Promise.all(streams.map((stream) => stream.next()));
  const ends = streams.map(async (stream) => {
    for await (const _ of stream) void _;
  });
  const codes = Promise.allSettled(ends).then((all) => all.map(({ reason }) => reason?.code));
  const { pid } = server.children.find(({ model, instance }) => instance !== model);
  // The second argument of the stub, after the model's path.
  const file = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0")[2];
  const fd = await stopInAllocator(pid, file);
  // The root of the tree and its ends lead nowhere.
  const links = Buffer.alloc(24);
  for (const at of [0, 8, 16]) links.writeBigInt64LE(0x7123_4567_8000n, at);
  writeSync(fd, links, 0, 24, 8);
  closeSync(fd);
  process.kill(pid, "SIGKILL");
  return new Set(await codes);
}

(async () => {
  const log = [];
  const write = (line) => log.push(line);
  const server = await TritonServer.start({
    runtime,
    logger: { debug: write, info: write, warn: write, error: write },
  });
  const codes = [];
  for (let round = 0; round < rounds; ++round) {
    await server.loadModel("command", { config: { backend: "python" }, files: { "1/model.py": code } });
    codes.push(...(await serve(server)));
  }
  await server.loadModel("command", { config: { backend: "python" }, files: { "1/model.py": code } });
  const short = { ...request, inputs: [request.inputs[0], { ...request.inputs[1], data: ["{}"] }] };
  const answers = [];
  for await (const { outputs } of server.infer(short)) answers.push(outputs.out.data);
  await server.stop();
  const reports = log.filter((line) => line.includes("allocator"));
  writeSync(1, JSON.stringify({ codes, answers, reports }));
})();
