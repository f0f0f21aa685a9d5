// An Electron app: the model lives in a utility process, so that neither a load nor a crash of it touches the window. The
// window talks to it over a MessagePort of its own; this process only brings the two together.
//
//   npm install && MODEL_REPOSITORY=/path/to/model_repository npm start
import { join } from "node:path";
import { app, BrowserWindow, ipcMain, MessageChannelMain, utilityProcess } from "electron";

const directory = import.meta.dirname;
let host;

function startHost() {
  const modelRepository = process.env.MODEL_REPOSITORY ?? join(app.getPath("userData"), "model_repository");
  const child = utilityProcess.fork(join(directory, "model-host.mjs"), [modelRepository], { serviceName: "model" });
  child.once("exit", (code) => {
    host = undefined;
    for (const { webContents } of BrowserWindow.getAllWindows()) webContents.send("model-ended", code);
  });
  return child;
}

function openWindow() {
  const window = new BrowserWindow({
    width: 900,
    height: 640,
    webPreferences: { preload: join(directory, "preload.cjs"), contextIsolation: true, sandbox: true },
  });
  // The window shows this one page.
  window.webContents.setWindowOpenHandler(() => ({ action: "deny" }));
  window.webContents.on("will-navigate", (event) => event.preventDefault());
  return window.loadFile(join(directory, "renderer/index.html"));
}

// Each page asks for its port when it is ready for it, a reloaded one again; a model that ended is started again.
ipcMain.on("model-connect", (event) => {
  host ??= startHost();
  const { port1, port2 } = new MessageChannelMain();
  host.postMessage({ type: "connect" }, [port1]);
  event.sender.postMessage("model-port", null, [port2]);
});

app.on("window-all-closed", () => app.quit());

// The model is unloaded before the app ends.
app.on("will-quit", (event) => {
  if (host === undefined) return;
  event.preventDefault();
  host.once("exit", () => app.quit());
  host.postMessage({ type: "stop" });
});

app.whenReady().then(openWindow);
