import { createHash } from "node:crypto";
import { createReadStream, statSync } from "node:fs";
import { mkdir, open, readdir, rm, statfs } from "node:fs/promises";
import { basename, join } from "node:path";
import { InvalidArgumentError } from "../../errors";
import { SetupCancelledError, SetupError } from "../errors";
import { formatBytes } from "./progress";

/** A file of a bundle in parts. */
export interface Part {
  name: string;
  /** Bytes. */
  size: number;
  /** Hexadecimal. */
  sha256: string;
}

/** The wheels of a bundle, concatenated and cut into parts. Both lists are in the order of that sequence of bytes. */
export interface Parts {
  wheels: { name: string; size: number }[];
  parts: Part[];
}

/** With smaller parts a bundle would have thousands of files. */
const MINIMUM = 1e6;

const UNITS: Readonly<Record<string, number>> = { "": 1, K: 1e3, M: 1e6, G: 1e9 };

/**
 * Reads a size: `60M`, `2G`, `500000`; K, M and G are powers of 1000.
 *
 * @returns bytes
 * @throws {@link InvalidArgumentError} for anything else, and for less than 1 MB
 */
export function partSize(text: string): number {
  const [, number = "", unit = ""] = /^(\d+(?:\.\d+)?)([KMG]?)B?$/i.exec(text.trim()) ?? [];
  const size = Math.floor(Number(number) * (UNITS[unit.toUpperCase()] ?? 0));
  if (number !== "" && size >= MINIMUM && Number.isSafeInteger(size)) return size;
  throw new InvalidArgumentError(`the size of a part, ${JSON.stringify(text)}, is not one of at least 1 MB`, {
    hint: "use a number with K, M or G, e.g. 60M",
  });
}

/**
 * Writes the wheels of a folder into `target` as parts of `size` bytes, and deletes each wheel as soon as it is written:
 * so that the gigabytes are on the disk only once.
 */
export async function writeParts(
  wheelFolder: string,
  target: string,
  size: number,
  signal: AbortSignal | undefined,
): Promise<Parts> {
  const names = (await readdir(wheelFolder)).sort();
  const wheels = names.map((name) => ({ name, size: statSync(join(wheelFolder, name)).size }));
  const parts: Part[] = [];
  let out: PartWriter | undefined;
  try {
    for (const { name } of wheels) {
      const path = join(wheelFolder, name);
      for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
        if (signal?.aborted) throw new SetupCancelledError(signal.reason);
        let rest = chunk as Buffer;
        while (rest.length > 0) {
          out ??= await PartWriter.open(target, `part-${String(parts.length + 1).padStart(3, "0")}`);
          const taken = rest.subarray(0, size - out.size);
          await out.write(taken);
          rest = rest.subarray(taken.length);
          if (out.size < size) continue;
          parts.push(await out.close());
          out = undefined;
        }
      }
      await rm(path);
    }
    if (out !== undefined) parts.push(await out.close());
    out = undefined;
  } finally {
    await out?.abandon();
  }
  return { wheels, parts };
}

class PartWriter {
  size = 0;
  readonly #hash = createHash("sha256");
  readonly #name: string;
  readonly #file: Awaited<ReturnType<typeof open>>;

  private constructor(name: string, file: Awaited<ReturnType<typeof open>>) {
    this.#name = name;
    this.#file = file;
  }

  static async open(folder: string, name: string): Promise<PartWriter> {
    return new PartWriter(name, await open(join(folder, name), "wx"));
  }

  async write(bytes: Buffer): Promise<void> {
    await this.#file.writeFile(bytes);
    this.#hash.update(bytes);
    this.size += bytes.length;
  }

  async close(): Promise<Part> {
    await this.#file.sync();
    await this.#file.close();
    return { name: this.#name, size: this.size, sha256: this.#hash.digest("hex") };
  }

  async abandon(): Promise<void> {
    await this.#file.close().catch(() => {});
  }
}

/** Whether a bundle's description of its parts is usable. */
export function arePartsUsable(value: Partial<Parts>): value is Parts {
  const isFile = (item: unknown): item is { name: string; size: number } => {
    const { name, size } = (item ?? {}) as { name?: unknown; size?: unknown };
    const plain = typeof name === "string" && name !== "" && name === basename(name) && !name.startsWith(".");
    return plain && typeof size === "number" && Number.isSafeInteger(size) && size >= 0;
  };
  const { wheels, parts } = value;
  if (!Array.isArray(wheels) || !Array.isArray(parts)) return false;
  if (!wheels.every(isFile) || !parts.every((part) => isFile(part) && typeof part.sha256 === "string")) return false;
  const total = (files: readonly { size: number }[]) => files.reduce((sum, file) => sum + file.size, 0);
  return total(wheels) === total(parts);
}

/**
 * Puts the wheels of a bundle together again in `target`, a new folder. Before the first byte is read it checks that all parts
 * exist and that there is room for the wheels. Each part is compared with its checksum.
 *
 * @param refuse - makes the error for a bundle that can't be used
 * @throws what `refuse` makes; {@link SetupError} `ERR_SETUP_SPACE`; {@link SetupCancelledError}
 */
export async function readParts(
  folder: string,
  { wheels, parts }: Parts,
  target: string,
  signal: AbortSignal | undefined,
  refuse: (reason: string, hint: string) => SetupError,
): Promise<void> {
  const again = "copy them again from where the bundle was made";
  const sizeOf = (name: string) => statSync(join(folder, name), { throwIfNoEntry: false })?.size;
  const missing = parts.filter(({ name }) => sizeOf(name) === undefined);
  if (missing.length > 0) throw refuse(`lacks ${missing.length} of its ${parts.length} parts: ${list(missing)}`, again);
  const short = parts.filter(({ name, size }) => sizeOf(name) !== size);
  const first = short[0];
  if (first !== undefined) {
    const sizes = `${first.name} has ${sizeOf(first.name)} bytes, not ${first.size}`;
    throw refuse(`has parts of a wrong size: ${list(short)} (${sizes})`, again);
  }
  await mkdir(target);
  await checkRoom(
    target,
    wheels.reduce((sum, { size }) => sum + size, 0),
  );
  const bytes = checkedBytes(folder, parts, signal, refuse);
  let rest: Buffer = Buffer.alloc(0);
  for (const { name, size } of wheels) {
    const file = await open(join(target, name), "wx");
    try {
      for (let left = size; left > 0; ) {
        if (rest.length === 0) rest = (await bytes.next()).value ?? rest;
        const taken = rest.subarray(0, left);
        await file.writeFile(taken);
        rest = rest.subarray(taken.length);
        left -= taken.length;
      }
    } finally {
      await file.close();
    }
  }
  // The last part's checksum is compared after its last byte.
  await bytes.next();
}

/** The bytes of all parts. Throws after the last byte of a part whose checksum is wrong. */
async function* checkedBytes(
  folder: string,
  parts: readonly Part[],
  signal: AbortSignal | undefined,
  refuse: (reason: string, hint: string) => SetupError,
): AsyncGenerator<Buffer, undefined> {
  for (const { name, sha256 } of parts) {
    const hash = createHash("sha256");
    for await (const chunk of createReadStream(join(folder, name), { highWaterMark: 1 << 20 })) {
      if (signal?.aborted) throw new SetupCancelledError(signal.reason);
      hash.update(chunk as Buffer);
      yield chunk as Buffer;
    }
    const found = hash.digest("hex");
    if (found !== sha256) {
      throw refuse(`has a damaged part: ${name} (its SHA-256 is ${found}, not ${sha256})`, `copy ${name} again`);
    }
  }
  return undefined;
}

async function checkRoom(folder: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize >= needed) return;
  throw new SetupError(
    `${folder} has ${formatBytes(bavail * bsize)} free, and the wheels of the bundle alone need ${formatBytes(needed)}`,
    { code: "ERR_SETUP_SPACE", hint: "free some space, or choose another place with --dir" },
  );
}

function list(files: readonly { name: string }[]): string {
  const shown = files.slice(0, 5).map(({ name }) => name);
  return `${shown.join(", ")}${files.length > shown.length ? ` and ${files.length - shown.length} more` : ""}`;
}
