// All that the page gets: four functions. The port itself stays on this side of the bridge.
const { contextBridge, ipcRenderer } = require("electron");

let port;
let tell = () => {};

ipcRenderer.on("model-port", ({ ports }) => {
  port?.close();
  [port] = ports;
  port.onmessage = ({ data }) => tell(data);
});
ipcRenderer.on("model-ended", (_event, code) => tell({ type: "ended", code }));

contextBridge.exposeInMainWorld("model", {
  /** Connects to the model, also after its process has ended; `listener` gets its messages (model-service.mjs). */
  connect(listener) {
    tell = listener;
    ipcRenderer.send("model-connect");
  },
  /** Sends the model a message (model-service.mjs). */
  send(message) {
    port.postMessage(message);
  },
  /** Asks the user for a "model", a "gguf" or an "adapter"; gives its path, or undefined. */
  choose(what) {
    return ipcRenderer.invoke("choose", what);
  },
});
