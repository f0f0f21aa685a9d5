const { contextBridge, ipcRenderer } = require("electron");

contextBridge.exposeInMainWorld("model", {
  ask: (prompt, lora) => ipcRenderer.invoke("ask", prompt, lora),
  onText: (listener) => ipcRenderer.on("text", (_, text) => listener(text)),
  onProgress: (listener) => ipcRenderer.on("progress", (_, phase) => listener(phase)),
});
