import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { GLIBC_MINIMUM } from "../../src/host";
import { readElf } from "../support/elf";

const root = join(__dirname, "../..");

/** The native files in a folder. */
function natives(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => /\.(node|so)$/.test(name))
    .map((name) => join(folder, name));
}

const prebuilds = join(root, "prebuilds");
const shipped = existsSync(prebuilds) ? readdirSync(prebuilds).flatMap((name) => natives(join(prebuilds, name))) : [];
const built = natives(join(root, "build/Release"));

/*
 * The oldest library that has what the files need. glibc: what Triton's wheel is tagged with (manylinux_2_35). libstdc++
 * and libgcc: what Triton's own library needs (GCC 12, which Ubuntu 22.04 and Debian 12 both have), for a process with
 * the addon has Triton in it as well.
 */
const FLOOR: Readonly<Record<string, string>> = {
  GLIBC: GLIBC_MINIMUM.join("."),
  GLIBCXX: "3.4.30",
  CXXABI: "1.3.13",
  GCC: "12.0",
};

/** Below 0 where version `a` is older than `b`. */
function compare(a: string, b: string): number {
  const [left, right] = [a, b].map((text) => text.split(".").map(Number));
  for (let i = 0; i < Math.max(left?.length ?? 0, right?.length ?? 0); i++) {
    const difference = (left?.[i] ?? 0) - (right?.[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

/** The version names that are newer than the floor, or of a library that has none. */
function tooNew(path: string): string[] {
  return [...readElf(path).versions].flatMap(([library, names]) =>
    names
      .filter((name) => {
        const [, kind = "", version = ""] = /^([A-Z]+)_([0-9.]+)$/.exec(name) ?? [];
        const floor = FLOOR[kind];
        return floor === undefined || compare(version, floor) > 0;
      })
      .map((name) => `${name} of ${library}`),
  );
}

// Where nothing is prebuilt yet, the build of this machine is what would be shipped from it.
describe.each((shipped.length > 0 ? shipped : built).map((path) => [path.slice(root.length + 1), path] as const))(
  "%s",
  (_, path) => {
    it("needs no newer glibc and libstdc++ than the README states", () => {
      // The library of warm children does without C++'s: it is loaded into a stub that has its own.
      const needed = path.endsWith("libtritonode_warm.so") ? ["libc.so.6"] : ["libc.so.6", "libstdc++.so.6"];
      expect([...readElf(path).versions.keys()]).toEqual(expect.arrayContaining(needed));
      expect(tooNew(path)).toEqual([]);
    });

    it("is for the platform that its folder names", () => {
      const folder = basename(dirname(path));
      const { machine } = readElf(path);
      expect(folder).toBe(folder === "Release" ? folder : `linux-${machine}`);
    });
  },
);

describe("what the native files take from Node", () => {
  const { symbols } = createRequire(__filename)("node-api-headers") as {
    symbols: Record<string, { js_native_api_symbols: string[]; node_api_symbols: string[] }>;
  };
  const version9 = new Set([...(symbols.v9?.js_native_api_symbols ?? []), ...(symbols.v9?.node_api_symbols ?? [])]);

  it.each([...shipped, ...built].map((path) => [path.slice(root.length + 1), path]))(
    "%s: Node-API 9 only",
    (_, path) => {
      const { unversioned, libraries } = readElf(path);
      expect(unversioned.filter((name) => !version9.has(name))).toEqual([]);
      // Node-API symbols in the addon only: Python has none for the kernels
      expect(unversioned.length > 0).toBe(path.endsWith(".node"));
      expect(libraries.filter((name) => /^lib(node|uv|v8)/.test(name))).toEqual([]);
    },
  );
});

it("there are native files to look at", () => expect(shipped.length + built.length).toBeGreaterThan(1));

it("the README states the floor", () => {
  expect(readFileSync(join(root, "README.md"), "utf8")).toContain(`glibc ${FLOOR.GLIBC}`);
});

it.runIf(spawnSync("readelf", ["--version"]).status === 0)("reads ELF files as readelf does", () => {
  for (const path of [...built, ...shipped]) {
    const text = spawnSync("readelf", ["-W", "-V", "-d", path], { encoding: "utf8" }).stdout;
    const versions = [...text.matchAll(/Name: ((?:GLIBC|GLIBCXX|CXXABI|GCC)_\S+)/g)].map((match) => match[1]);
    const libraries = [...text.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map((match) => match[1]);
    const read = readElf(path);
    expect([...read.versions.values()].flat().sort()).toEqual(versions.sort());
    expect(read.libraries).toEqual(libraries);
  }
});
