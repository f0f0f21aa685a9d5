import { execFileSync, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { InvalidArgumentError } from "../../src/errors";
import { bundle, type SetupError, setup } from "../../src/runtime";
import { openBundle } from "../../src/runtime/install/bundle";
import { partSize, writeParts } from "../../src/runtime/install/parts";
import { baseDigest, digest, installedPins } from "../../src/runtime/packages/requirements";
import { root } from "../support/paths";
import { unless } from "../support/skip";
import { fakePython, temporary } from "./runtime-files";

const refusal = (promise: Promise<unknown>): Promise<SetupError> =>
  promise.then(
    () => expect.unreachable("it was not refused"),
    (reason) => reason,
  );

const contents: Record<string, Buffer> = {
  "a-1.0-py3-none-any.whl": Buffer.from("first wheel"),
  "b-1.0-py3-none-any.whl": Buffer.alloc(0),
  "c-1.0-py3-none-any.whl": Buffer.from(Array.from({ length: 50 }, (_, i) => i)),
};

/** A bundle of those three wheels in parts of `size` bytes. */
async function cut(size = 10, description: object = {}): Promise<string> {
  const folder = temporary();
  const wheels = join(temporary(), "wheels");
  mkdirSync(wheels);
  for (const [name, bytes] of Object.entries(contents)) writeFileSync(join(wheels, name), bytes);
  const parts = await writeParts(wheels, folder, size, undefined);
  expect(readdirSync(wheels)).toEqual([]);
  const fits = {
    schema: 1,
    tritonode: "0.1.0",
    device: "cpu",
    pythonVersion: "3.11",
    arch: process.arch,
    requirements: baseDigest("cpu", true),
    extras: {},
  };
  writeFileSync(join(folder, "bundle.json"), JSON.stringify({ ...fits, ...parts, ...description }));
  return folder;
}

const wanted = () =>
  ({
    scratch: temporary(),
    device: "cpu",
    pythonVersion: "3.11",
    python: "python3",
    extras: [],
    withTriton: true,
    signal: undefined,
  }) as const;

describe("a bundle in parts", () => {
  it.each([1, 7, 11, 61, 1000])("of %i bytes is put together to the same wheels", async (size) => {
    const folder = await cut(size);
    const parts = readdirSync(folder).filter((name) => name.startsWith("part-"));
    expect(parts).toHaveLength(Math.ceil(61 / size));
    const wheels = await openBundle(folder, wanted());
    expect(readdirSync(wheels).sort()).toEqual(Object.keys(contents));
    for (const [name, bytes] of Object.entries(contents)) expect(readFileSync(join(wheels, name))).toEqual(bytes);
  });

  it("has checksums that sha256sum agrees with", async () => {
    const folder = await cut();
    const { parts } = JSON.parse(readFileSync(join(folder, "bundle.json"), "utf8"));
    for (const { name, size, sha256 } of parts) {
      const bytes = readFileSync(join(folder, name));
      expect([size, sha256]).toEqual([bytes.length, createHash("sha256").update(bytes).digest("hex")]);
    }
    expect(parts).toHaveLength(7);
  });

  it("is refused without some of its parts, which are named, before anything is read", async () => {
    const folder = await cut();
    rmSync(join(folder, "part-002"));
    rmSync(join(folder, "part-007"));
    const options = wanted();
    const error = await refusal(openBundle(folder, options));
    expect(error.code).toBe("ERR_SETUP_BUNDLE");
    expect(error.message).toContain("lacks 2 of its 7 parts: part-002, part-007");
    expect(error.hint).toContain("copy them again");
    expect(readdirSync(options.scratch)).toEqual([]);
  });

  it("is refused where a part is cut short", async () => {
    const folder = await cut();
    truncateSync(join(folder, "part-003"), 4);
    expect((await refusal(openBundle(folder, wanted()))).message).toContain("part-003 has 4 bytes, not 10");
  });

  it.each(["part-001", "part-007"])("is refused where a byte of %s has changed", async (name) => {
    const folder = await cut();
    const bytes = readFileSync(join(folder, name));
    bytes.writeUInt8(bytes.readUInt8(0) ^ 1);
    writeFileSync(join(folder, name), bytes);
    const error = await refusal(openBundle(folder, wanted()));
    expect(error).toMatchObject({ code: "ERR_SETUP_BUNDLE", hint: `copy ${name} again` });
    expect(error.message).toMatch(new RegExp(`a damaged part: ${name} \\(its SHA-256 is [0-9a-f]{64}, not`));
  });

  it("is refused for another platform before its parts are looked at", async () => {
    const folder = await cut(10, { arch: "riscv64" });
    rmSync(join(folder, "part-001"));
    expect((await refusal(openBundle(folder, wanted()))).message).toContain("is for riscv64");
  });

  it("is refused where its wheels would land elsewhere, or are not what the parts hold", async () => {
    for (const wheels of [[{ name: "../../evil.whl", size: 61 }], [{ name: "a.whl", size: 60 }], "none", [null]]) {
      const error = await refusal(openBundle(await cut(10, { wheels }), wanted()));
      expect([error.code, error.message]).toEqual(["ERR_SETUP_BUNDLE", expect.stringContaining("don't make up")]);
    }
  });

  it("is refused before anything is read where the disk has no room for it", async () => {
    const folder = await cut();
    const size = 8e12;
    truncateSync(join(folder, "part-001"), size);
    const large = { wheels: [{ name: "a.whl", size }], parts: [{ name: "part-001", size, sha256: "" }] };
    const path = join(folder, "bundle.json");
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), ...large }));
    const directory = temporary();
    const python = fakePython(temporary(), "python3");
    const error = await refusal(setup({ directory, device: "cpu", python, offline: folder, installer: "pip" }));
    expect(error.code).toBe("ERR_SETUP_SPACE");
    expect(error.message).toMatch(/the wheels of the bundle alone need 8\.0? ?TB|need 8000(\.0)? GB/);
    expect(readdirSync(directory)).toEqual([]);
  });

  it("for a Python with packages of its own is refused for one without", async () => {
    const folder = await cut(10, { useInstalled: true, requirements: digest(installedPins()) });
    expect((await refusal(openBundle(folder, wanted()))).message).toContain("--use-installed");
    expect(readdirSync(await openBundle(folder, { ...wanted(), useInstalled: true }))).toHaveLength(3);
  });

  it("is not written over something else", async () => {
    const output = temporary();
    writeFileSync(join(output, "thesis.tex"), "");
    const error = await refusal(bundle({ output, device: "cpu", parts: 1e6 }));
    expect(error).toBeInstanceOf(InvalidArgumentError);
    expect(readdirSync(output)).toEqual(["thesis.tex"]);
    // Found at the start, and not when everything was downloaded.
    expect((await refusal(bundle({ output, device: "cpu" }))).message).toBe(`${output} is a folder`);
  });
});

const mayMount = spawnSync("unshare", ["-rm", "mount", "-t", "tmpfs", "none", "/mnt"]).status === 0;

it("a bundle that does not fit on the disk says so and leaves nothing", unless(!mayMount, "unshare -rm"), () => {
  // an interpreter whose pip "downloads" 1.5 MB to a disk of 2 MB: the wheel fits, its parts beside it do not
  const module = `case "$*" in
    *" venv "*) for d; do :; done; mkdir -p "$d/bin"; cp "$0" "$d/bin/python3" ;;
    *" download "*) head -c 1500000 /dev/zero > "$(echo "$*" | sed 's/.*--dest \\([^ ]*\\).*/\\1/')/torch.whl" ;;
  esac`;
  const python = fakePython(temporary(), "python3", { module });
  const program = `require(${JSON.stringify(join(root, "dist/runtime"))}).bundle({
    output: "/mnt/out", device: "cpu", python: ${JSON.stringify(python)}, parts: 1e6,
  }).then(console.log, (error) => console.log(error.code + ": " + error.message + "; " + error.hint))`;
  const script = `mount -t tmpfs -o size=2m none /mnt && "$@" && echo "left: $(ls -A /mnt)"`;
  const words = ["-rm", "sh", "-c", script, "sh", process.execPath, "-e", program];
  const [said, left] = execFileSync("unshare", words, { encoding: "utf8" }).trim().split("\n");
  expect(said).toMatch(/^ERR_SETUP_FAILED: the bundle could not be made: ENOSPC.*; free some disk space/);
  expect(left).toBe("left:");
});

it.each([
  ["60M", 60e6],
  ["1.5G", 1.5e9],
  ["2gb", 2e9],
  ["1000000", 1e6],
])("a size is typed as %s", (text, bytes) => {
  expect(partSize(text)).toBe(bytes);
});

it.each(["", "60", "0.5M", "-60M", "60 MiB", "1e9"])("a size can't be %j", (text) => {
  expect(() => partSize(text)).toThrow(InvalidArgumentError);
});
