import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { AdapterNotFoundError, InvalidArgumentError, TritonodeError, TritonServerError } from "../../src";
import { root } from "../support/paths";

const page = readFileSync(join(root, "docs/errors.md"), "utf8");
const sections = page.split(/^(?=## )/m).filter((part) => part.startsWith("## ERR_"));
const titles = sections.map((section) => section.slice(3, section.indexOf("\n")));

function sources(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return sources(path);
    return /\.(ts|py)$/.test(entry.name) ? [path] : [];
  });
}

/** Every code that an error is made with, in TypeScript; those of node:util are not ours. */
function codesOfSource(): string[] {
  const codes = new Set<string>();
  for (const path of sources(join(root, "src"))) {
    for (const [code] of readFileSync(path, "utf8").matchAll(/ERR_[A-Z]+(_[A-Z]+)*(?!_?[A-Z{$])/g)) codes.add(code);
  }
  return [...codes].filter((code) => !code.startsWith("ERR_PARSE_ARGS"));
}

/** What the backend's errors become here: Triton's codes. */
function codesOfBackend(): string[] {
  const text = readFileSync(join(root, "backends/vllm/tritonode/errors.py"), "utf8");
  return [...text.matchAll(/^ {4}code = "([A-Z_]+)"/gm)].map(([, code]) => `ERR_TRITON_${code}`);
}

test("every code has its section, every section its code", () => {
  expect(codesOfBackend().length).toBeGreaterThan(4);
  const triton = readFileSync(join(root, "src/transport/failure.ts"), "utf8");
  const names = /tritonCodes = new Set\(\[([^\]]*)\]/.exec(triton)?.[1] ?? "";
  const ofTriton = [...names.matchAll(/"([A-Z_]+)"/g)].map(([, name]) => `ERR_TRITON_${name}`);
  expect(ofTriton).toHaveLength(8);
  const known = new Set([...codesOfSource(), ...codesOfBackend(), ...ofTriton]);
  known.delete("ERR_TRITON");
  expect([...known].sort()).toEqual([...titles].sort());
});

test("every section says what happened, what to do, and shows a message", () => {
  for (const section of sections) {
    expect(section).toMatch(/\*\*Example\*\*: `.+`/);
    if (!section.startsWith("## ERR_TRITON_UNSUPPORTED\n"))
      expect(section, section.slice(0, 40)).toMatch(/\*\*Do\*\*: ./);
  }
});

test("an error links to its section on the package's own page", () => {
  const { homepage, files } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const [url, anchor] = new AdapterNotFoundError("sq", ["sql"]).docs.split("#");
  expect(url).toBe(`${homepage.split("#")[0]}/blob/main/docs/errors.md`);
  expect(anchor).toBe("err_adapter_not_found");
  expect(titles.map((title) => title.toLowerCase())).toContain(anchor);
  expect(new TritonServerError("NOT_FOUND", "x").docs).toMatch(/#err_triton_not_found$/);
  expect(new InvalidArgumentError("x")).toBeInstanceOf(TritonodeError);
  // Machines without a network have the page too.
  expect(files).toContain("docs/errors.md");
});
