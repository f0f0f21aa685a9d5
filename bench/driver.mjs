// One peer in a fresh Node process, as a caller's program would hold it. Started by run.mjs: a line of JSON on stdin is a
// command, a line on descriptor 3 its answer. `{cmd: "start", config}`, `{cmd: "run", requests}`, `{cmd: "stop"}`.
import { createWriteStream } from "node:fs";
import { createInterface } from "node:readline";
import { runBatch } from "./lib/measure.mjs";

const out = createWriteStream("", { fd: 3 });
const peerModule = await import(`./peers/${process.argv[2]}.mjs`);
let peer;

const commands = {
  async start({ config }) {
    peer = await peerModule.start(config);
    return {};
  },
  async run({ requests }) {
    globalThis.gc?.();
    return runBatch(peer.generate.bind(peer), requests);
  },
  async stop() {
    const stopping = peer;
    peer = undefined;
    await stopping?.stop();
    return {};
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = await commands[command.cmd](command);
  } catch (error) {
    answer = { failure: error?.stack ?? String(error) };
  }
  out.write(`${JSON.stringify(answer)}\n`);
  if (command.cmd === "stop") break;
}
// The harness is gone, or has said stop.
await commands.stop();
// An end of its own accord would wait for connections that a peer keeps alive.
out.end(() => process.exit(0));
