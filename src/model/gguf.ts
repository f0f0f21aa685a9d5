import { closeSync, openSync, readSync, statSync } from "node:fs";
import { basename, dirname, resolve } from "node:path";
import { namesIn } from "../common/files";
import { didYouMean } from "../common/unknown";
import { InvalidArgumentError, ModelNotFoundError } from "../errors";

/** Bytes of the magic number, the version, and the counts of tensors and keys (GGUF's specification, versions 2 and 3). */
const HEADER_BYTES = 24;

/** Whether a base model's path names a GGUF file. */
export function isGguf(model: unknown): model is string {
  return typeof model === "string" && model.toLowerCase().endsWith(".gguf");
}

/**
 * Checks that a file can be a GGUF file, before a child is started for it. The child checks the rest of the file.
 *
 * @throws {@link InvalidArgumentError} for a file that is missing, too short, or of another format or version.
 */
export function checkGgufFile(model: string): void {
  const path = resolve(model);
  const header = Buffer.alloc(HEADER_BYTES);
  let bytes: number;
  try {
    // A model's folder may have such a name too.
    if (statSync(path).isDirectory()) return;
    const file = openSync(path, "r");
    try {
      bytes = readSync(file, header, 0, HEADER_BYTES, 0);
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") {
      throw new InvalidArgumentError(`the GGUF file ${path} cannot be read`, { cause });
    }
    throw new ModelNotFoundError(
      model,
      `the GGUF file ${path} does not exist${didYouMean(basename(path), namesIn(dirname(path)))}`,
      { cause, hint: `models are not downloaded; relative paths start at ${process.cwd()}` },
    );
  }
  const magic = header.toString("latin1", 0, 4);
  if (bytes < 4 || magic !== "GGUF") {
    throw new InvalidArgumentError(
      `${path} is not a GGUF file: it starts with ${JSON.stringify(magic.slice(0, bytes))}`,
      {
        hint: magic.startsWith("vers")
          ? "it looks like a Git LFS pointer: fetch the file itself (git lfs pull)"
          : undefined,
      },
    );
  }
  if (bytes < HEADER_BYTES) {
    throw new InvalidArgumentError(`the GGUF file ${path} is cut short: it has ${bytes} bytes`);
  }
  const version = header.readUInt32LE(4);
  if (version !== 2 && version !== 3) {
    throw new InvalidArgumentError(`the GGUF file ${path} has version ${version}; versions 2 and 3 are read`, {
      hint: "convert the model again with a llama.cpp of today, for a little-endian machine",
    });
  }
}
