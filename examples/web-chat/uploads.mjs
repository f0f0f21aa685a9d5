// Adapters that browsers send: each file is written as it comes, and the folder is loaded while requests run.
import { createWriteStream, mkdtempSync, rmSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pipeline } from "node:stream/promises";

/** The files of a PEFT folder, and how many bytes each may have. Pickled weights are refused: reading them runs code. */
const limits = { "adapter_config.json": 1 << 20, "adapter_model.safetensors": 2 ** 30 };

function refuse(status, message) {
  return Object.assign(new Error(message), { status });
}

export class AdapterUploads {
  #model;
  #folder = mkdtempSync(join(tmpdir(), "web-chat-"));

  constructor(model) {
    this.#model = model;
  }

  #path(name) {
    if (!/^\w[\w.-]{0,63}$/.test(name)) {
      throw refuse(400, `${JSON.stringify(name)} is no name of an adapter: use letters, digits, '.', '_' and '-'`);
    }
    if (name === this.#model.name) throw refuse(409, `${name} is the name of the base model: rename the folder`);
    return join(this.#folder, name);
  }

  /** Writes one file of an adapter's folder. */
  async receive(name, file, stream) {
    const folder = this.#path(name);
    if (!Object.hasOwn(limits, file ?? "")) throw refuse(400, `send ${Object.keys(limits).join(" and ")}, not ${file}`);
    await mkdir(folder, { recursive: true });
    let bytes = 0;
    await pipeline(
      stream,
      async function* (chunks) {
        for await (const chunk of chunks) {
          bytes += chunk.length;
          if (bytes > limits[file]) throw refuse(413, `${file} is larger than ${limits[file]} bytes`);
          yield chunk;
        }
      },
      createWriteStream(join(folder, file)),
    );
    return { bytes };
  }

  /** Loads the folder, or replaces the adapter of that name. The model checks the files before it takes them. */
  async load(name) {
    const path = this.#path(name);
    const { adapters } = this.#model;
    const known = (await adapters.list()).some((adapter) => adapter.name === name);
    try {
      const { rank } = await (known ? adapters.replace(name, path) : adapters.load(name, path));
      return { name, rank };
    } catch (error) {
      throw refuse(422, error.message);
    }
  }

  remove() {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
