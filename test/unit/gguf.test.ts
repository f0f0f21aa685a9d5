import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { checkEngine } from "../../src/model/engine-check";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tritonode gguf-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function check(name: string, content?: Buffer): void {
  const path = join(folder, name);
  if (content !== undefined) writeFileSync(path, content);
  checkEngine({ engine: { model: path } }, "0.32.0");
}

function header(version: number): Buffer {
  const bytes = Buffer.alloc(24);
  bytes.write("GGUF");
  bytes.writeUInt32LE(version, 4);
  return bytes;
}

test.each([
  ["is missing", undefined, /the GGUF file .*model\.gguf does not exist/],
  ["is empty", Buffer.alloc(0), /is not a GGUF file: it starts with ""/],
  ["is of another format", Buffer.from("\x7fELF and more than twenty-four bytes"), /starts with "\u007fELF"/],
  ["is a Git LFS pointer", Buffer.from("version https://git-lfs.github.com/spec/v1"), /starts with "vers"/],
  ["is cut short", header(3).subarray(0, 20), /is cut short: it has 20 bytes/],
  ["has an old version", header(1), /has version 1; versions 2 and 3 are read/],
  ["is big-endian", header(0x03000000), /has version 50331648/],
])("a GGUF file that %s is refused before a child is started", (_, content, message) => {
  expect(() => check("model.gguf", content)).toThrow(message);
  const code = content === undefined ? "ERR_MODEL_NOT_FOUND" : "ERR_INVALID_ARGUMENT";
  expect(() => check("model.gguf", content)).toThrow(expect.objectContaining({ code }));
});

test("what may be a GGUF file, or a folder with such a name, is left to the child", () => {
  check("model.GGUF", header(3));
  check("other.gguf", header(2));
  mkdirSync(join(folder, "folder.gguf"));
  check("folder.gguf");
});
