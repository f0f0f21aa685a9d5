// An Electron app: the model lives in a utility process, so that neither a load nor a crash of it touches the window. The
// window talks to it over a MessagePort of its own; this process brings the two together, and asks for files and folders.
//
//   npm install && npm start
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { app, BrowserWindow, dialog, ipcMain, MessageChannelMain, protocol, utilityProcess } from "electron";
import { answer } from "./app-files.mjs";

const directory = import.meta.dirname;
const settingsFile = () => join(app.getPath("userData"), "settings.json");
let host;

protocol.registerSchemesAsPrivileged([{ scheme: "app", privileges: { standard: true, secure: true } }]);

async function startHost() {
  // The model that was chosen last; the first time there is none.
  const { model = "" } = await readFile(settingsFile(), "utf8").then(JSON.parse, () => ({}));
  const child = utilityProcess.fork(join(directory, "model-host.mjs"), [process.env.MODEL ?? model], {
    serviceName: "model",
  });
  child.once("exit", (code) => {
    host = undefined;
    for (const { webContents } of BrowserWindow.getAllWindows()) webContents.send("model-ended", code);
  });
  return child;
}

function openWindow() {
  const window = new BrowserWindow({
    width: 1100,
    height: 720,
    webPreferences: { preload: join(directory, "preload.cjs"), contextIsolation: true, sandbox: true },
  });
  // The window shows this one page.
  window.webContents.setWindowOpenHandler(() => ({ action: "deny" }));
  window.webContents.on("will-navigate", (event) => event.preventDefault());
  return window.loadURL("app://local/");
}

// Each page asks for its port when it is ready for it, a reloaded one again; a model process that ended is started again.
ipcMain.on("model-connect", async (event) => {
  host ??= startHost();
  const { port1, port2 } = new MessageChannelMain();
  (await host).postMessage({ type: "connect" }, [port1]);
  event.sender.postMessage("model-port", null, [port2]);
});

/** Asks for the model (a folder or a GGUF file) or for an adapter's folder; gives its path, or undefined. */
ipcMain.handle("choose", async (event, what) => {
  const { filePaths } = await dialog.showOpenDialog(BrowserWindow.fromWebContents(event.sender), {
    title: what === "model" ? "A model's folder" : what === "gguf" ? "A GGUF file" : "The folder of a PEFT adapter",
    properties: [what === "gguf" ? "openFile" : "openDirectory"],
    filters: what === "gguf" ? [{ name: "GGUF", extensions: ["gguf"] }] : [],
  });
  const [path] = filePaths;
  if (path !== undefined && what !== "adapter") await writeFile(settingsFile(), JSON.stringify({ model: path }));
  return path;
});

app.on("window-all-closed", () => app.quit());

// The model is unloaded before the app ends.
let ended = false;
app.on("will-quit", async (event) => {
  if (host === undefined || ended) return;
  event.preventDefault();
  ended = true;
  const child = await host;
  child.once("exit", () => app.quit());
  child.postMessage({ type: "stop" });
});

app.whenReady().then(() => {
  protocol.handle("app", ({ url }) => answer(url));
  return openWindow();
});
