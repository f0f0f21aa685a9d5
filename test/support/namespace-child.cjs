// Run by test/unit/server-namespace.test.ts in a PID namespace of its own: a server that stops when it is told anything.
const { TritonServer } = require("../../dist/server/index.js");

(async () => {
  const server = await TritonServer.start({ runtime: JSON.parse(process.argv[2]) });
  console.log(
    JSON.stringify({ pid: process.pid, directory: server.privateDirectory, prefix: server.sharedMemoryPrefix }),
  );
  await new Promise((resolve) => process.stdin.once("data", resolve));
  await server.stop();
  process.exit(0);
})();
