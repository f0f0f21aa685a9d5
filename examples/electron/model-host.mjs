// The process (or thread) that holds the model: a utility process of Electron, or a worker thread of Node. Either way it is
// told `{ type: "connect" }` with a MessagePort for each window, and `{ type: "stop" }`.
import { isMainThread, parentPort, workerData } from "node:worker_threads";
import { ModelService } from "./model-service.mjs";

const electron = process.parentPort;
if (electron === undefined && isMainThread)
  throw new Error("start this with utilityProcess.fork or as a worker thread");

// The model, as the last argument or as the worker's data; an empty one is chosen later.
const path = electron === undefined ? workerData : process.argv.at(-1);
const service = new ModelService(path);

async function receive({ type }, port) {
  if (type === "connect") service.connect(port);
  if (type !== "stop") return;
  await service.stop();
  // A worker ends by itself once nothing is left to do; a utility process waits for its parent.
  if (electron === undefined) parentPort.close();
  else process.exit();
}

if (electron === undefined) {
  parentPort.on("message", ({ port, ...message }) => receive(message, port));
} else {
  // A port of Electron gives events and has to be started; a port of Node gives the messages themselves.
  electron.on("message", ({ data, ports: [port] }) => receive(data, port));
}
