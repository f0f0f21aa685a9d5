// An Electron app: the model lives in the main process, the window asks over IPC, nothing listens.
//
//   npm install electron tritonode && npx electron .      (not run by this repository's tests: Electron's binary is no
//                                                          registry package; the addon itself is Node-API and needs no rebuild)
const { app, BrowserWindow, ipcMain } = require("electron");
const { join } = require("node:path");
const { VllmModel } = require("tritonode");

let model;

app.whenReady().then(async () => {
  const window = new BrowserWindow({ webPreferences: { preload: join(__dirname, "preload.cjs") } });
  await window.loadFile(join(__dirname, "index.html"));
  model = await VllmModel.load({
    modelRepository: process.env.MODEL_REPOSITORY,
    onProgress: (progress) => window.webContents.send("progress", progress.phase),
  });
  ipcMain.handle("ask", async (event, prompt, lora) => {
    for await (const { text } of model.stream(prompt, { lora, max_tokens: 100 })) event.sender.send("text", text);
  });
});

// Triton stops before the app does; quitting waits for it.
app.on("will-quit", (event) => {
  if (model === undefined) return;
  event.preventDefault();
  const ending = model;
  model = undefined;
  ending.dispose().finally(() => app.quit());
});
