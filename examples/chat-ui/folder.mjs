// A PEFT folder that was dropped on the page or chosen with a file input, as { name, files: [File, ...] }.

/** Its two files; what else training has left in the folder stays where it is. */
const parts = ["adapter_config.json", "adapter_model.safetensors"];

const asPromise = (call) => new Promise((resolve, reject) => call(resolve, reject));

/** The folders among what was dropped. Call it in the `drop` event itself: afterwards the browser forgets the items. */
export async function droppedFolders(dataTransfer) {
  const entries = [...dataTransfer.items]
    .map((item) => item.webkitGetAsEntry?.())
    .filter((entry) => entry?.isDirectory);
  return Promise.all(
    entries.map(async (entry) => {
      const files = [];
      const reader = entry.createReader();
      // A reader gives at most a hundred entries at a time, and none at the end.
      for (;;) {
        const some = await asPromise((resolve, reject) => reader.readEntries(resolve, reject));
        if (some.length === 0) break;
        for (const child of some) {
          if (child.isFile) files.push(await asPromise((resolve, reject) => child.file(resolve, reject)));
        }
      }
      return adapterFolder(entry.name, files);
    }),
  );
}

/** The folder that was chosen with `<input type="file" webkitdirectory>`. */
export function chosenFolder(files) {
  const paths = [...files].map((file) => ({ file, parents: file.webkitRelativePath.split("/").slice(0, -1) }));
  return adapterFolder(
    paths[0]?.parents[0] ?? "adapter",
    paths.filter(({ parents }) => parents.length === 1).map(({ file }) => file),
  );
}

function adapterFolder(name, files) {
  const found = files.filter((file) => parts.includes(file.name));
  const missing = parts.filter((part) => !found.some((file) => file.name === part));
  if (missing.length > 0) throw new Error(`${name} is not a PEFT folder: it has no ${missing.join(" and no ")}`);
  return { name: name.replace(/[^\w.-]+/g, "-"), files: found };
}
