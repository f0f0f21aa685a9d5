// The page's program: its way to the model is this example's server (server.mjs).
import { Chat, notify } from "./ui/chat.mjs";
import { chosenFolder, droppedFolders } from "./ui/folder.mjs";
import { eventData } from "./ui/sse.mjs";

const chat = new Chat(ask);

async function request(path, options) {
  const response = await fetch(path, options);
  if (response.ok) return response;
  const { error } = await response.json();
  throw new Error(error.message);
}

async function* ask({ model, messages, signal }) {
  const response = await request("api/chat", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({
      model,
      messages,
      max_tokens: 400,
      stream: true,
      // Every piece says how many tokens the answer has so far.
      stream_options: { include_usage: true, continuous_usage_stats: true },
    }),
    signal,
  });
  for await (const data of eventData(response.body)) {
    if (data === "[DONE]") return;
    const { choices, usage, error } = JSON.parse(data);
    if (error !== undefined) throw new Error(error.message);
    yield { text: choices[0]?.delta.content ?? "", tokens: usage?.completion_tokens ?? 0 };
  }
}

async function loadAdapter(folder) {
  try {
    const { name, files } = await folder;
    notify(`Loading ${name} …`);
    const path = `api/adapters/${encodeURIComponent(name)}`;
    for (const file of files) await request(`${path}/${file.name}`, { method: "PUT", body: file });
    const { rank } = await (await request(path, { method: "POST" })).json();
    await showModels();
    chat.addColumn(name);
    notify(`${name} is loaded (rank ${rank}), in a column of its own.`);
  } catch (error) {
    notify(error.message, true);
  }
}

async function showModels() {
  const models = await (await request("api/models")).json();
  chat.setModels(models);
  return models;
}

document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("drop-target");
});
document.addEventListener("dragleave", (event) => {
  // Left for no other element: the pointer is outside of the window.
  if (event.relatedTarget === null) document.body.classList.remove("drop-target");
});
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  document.body.classList.remove("drop-target");
  try {
    const folders = await droppedFolders(event.dataTransfer);
    if (folders.length === 0) notify("Drop the folder of the adapter, not its files.", true);
    for (const folder of folders) await loadAdapter(folder);
  } catch (error) {
    notify(error.message, true);
  }
});

// The same without a pointer.
const input = document.getElementById("folder");
document.getElementById("load").addEventListener("click", () => input.click());
input.addEventListener("change", async () => {
  try {
    if (input.files.length > 0) await loadAdapter(chosenFolder(input.files));
  } catch (error) {
    notify(error.message, true);
  }
  // The same folder can be chosen again.
  input.value = "";
});

try {
  for (const model of (await showModels()).slice(0, 3)) chat.addColumn(model);
} catch (error) {
  notify(error.message, true);
}
