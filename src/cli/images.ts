import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InvalidArgumentError } from "../errors";
import type { ModelSource } from "./model-source";

/** The first bytes of the formats that vLLM's image reader is sure to read. */
const FORMATS = [/^\x89PNG/, /^\xff\xd8\xff/, /^GIF8/, /^RIFF....WEBP/s, /^BM/];

/** Reads the files of `--image`. @throws {@link InvalidArgumentError} for one that can't be read or is not an image */
export function readImages(files: readonly string[]): Uint8Array[] {
  return files.map((file) => {
    let bytes: Buffer;
    try {
      bytes = readFileSync(file);
    } catch (cause) {
      throw new InvalidArgumentError(`--image: ${file} can't be read: ${(cause as Error).message}`, { cause });
    }
    const head = bytes.toString("latin1", 0, 12);
    if (FORMATS.some((format) => format.test(head))) return bytes;
    throw new InvalidArgumentError(`--image: ${file} is not an image`, { hint: "use a PNG, JPEG, WebP or GIF file" });
  });
}

/**
 * Refuses images for a model whose files show that it has no vision, before it is loaded. A model that passes may still have
 * none: then vLLM refuses the request.
 *
 * @throws {@link InvalidArgumentError}
 */
export function checkVision(source: ModelSource): void {
  if (source.kind === "repository" || (source.kind === "folder" && hasVision(source.path))) return;
  throw new InvalidArgumentError(`the model ${source.path} has no vision: it takes only text`, {
    hint:
      source.kind === "gguf"
        ? "GGUF files are served as text models: use the model's Hugging Face folder"
        : "leave --image out, or use a vision model",
  });
}

function hasVision(folder: string): boolean {
  const processor = ["preprocessor_config.json", "processor_config.json"];
  if (processor.some((name) => existsSync(join(folder, name)))) return true;
  try {
    const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as object;
    return Object.keys(config).some((name) => /vision|visual|image|img|^mm_/.test(name));
  } catch {
    // The load says what is wrong with the file.
    return true;
  }
}
