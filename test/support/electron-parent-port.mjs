// Gives a worker thread the shape in which Electron's documentation describes a utility process: `process.parentPort`
// whose messages are events with `data` and `ports`, and ports whose messages are events and wait for `start()`. Electron
// itself does not run here; this holds the example's code to that shape.
import { EventEmitter } from "node:events";
import { parentPort } from "node:worker_threads";

class MessagePortMain extends EventEmitter {
  #port;
  #started = false;

  constructor(port) {
    super();
    this.#port = port;
    port.on("close", () => this.emit("close"));
  }

  start() {
    if (this.#started) return;
    this.#started = true;
    this.#port.on("message", (data) => this.emit("message", { data, ports: [] }));
  }

  postMessage(message) {
    this.#port.postMessage(message);
  }

  close() {
    this.#port.close();
  }
}

process.parentPort = new EventEmitter();
// As in Electron: nothing is delivered before somebody listens.
process.parentPort.once("newListener", () => {
  parentPort.on("message", ({ port, ...data }) => {
    process.parentPort.emit("message", { data, ports: port === undefined ? [] : [new MessagePortMain(port)] });
  });
});
