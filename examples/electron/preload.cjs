// All that the page gets: three functions. The port itself stays on this side of the bridge.
const { contextBridge, ipcRenderer } = require("electron");

let port;
let nextId = 1;

contextBridge.exposeInMainWorld("model", {
  /** Connects to the model; `listener` gets its messages (model-service.mjs). */
  connect(listener) {
    ipcRenderer.on("model-port", ({ ports }) => {
      port?.close();
      [port] = ports;
      port.onmessage = ({ data }) => listener(data);
    });
    ipcRenderer.on("model-ended", (_event, code) => {
      const message = `the model's process ended (${code})`;
      listener({ type: "state", phase: "failed", error: { message, hint: "reload the window to start it again" } });
    });
    ipcRenderer.send("model-connect");
  },
  /** Asks, and gives the id that the answer's messages carry. */
  ask(prompt, lora, maxTokens) {
    const id = nextId++;
    port.postMessage({ type: "ask", id, prompt, lora, maxTokens });
    return id;
  },
  cancel(id) {
    port.postMessage({ type: "cancel", id });
  },
});
