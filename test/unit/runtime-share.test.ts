import { appendFileSync, mkdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { expect, it } from "vitest";
import { shareWith } from "../../src/runtime/install/share";
import { temporary } from "./runtime-files";

const SIZE = 100_000;

/** Lays out an installed package of files, each with the checksum that is given. */
function install(site: string, name: string, files: Record<string, [content: string, sum: string]>): void {
  const info = join(site, `${name}-1.0.dist-info`);
  mkdirSync(info, { recursive: true });
  for (const [path, [content, sum]] of Object.entries(files)) {
    mkdirSync(dirname(join(site, path)), { recursive: true });
    writeFileSync(join(site, path), content);
    appendFileSync(join(info, "RECORD"), `${path},sha256=${sum},${SIZE}\n`);
  }
}

it("equal files of equal packages become one file, and no others", async () => {
  const [own, other] = [temporary(), temporary()];
  const content = "x".repeat(SIZE);
  const files: Record<string, [string, string]> = {
    "a/equal.so": [content, "1"],
    "a/other-checksum.so": [content, "2"],
    "a/trimmed-differently.so": [content, "3"],
    "a/small.py": ["x", "4"],
    "a/gone.so": [content, "5"],
  };
  install(own, "a", files);
  install(own, "b", { "b/alone.so": [content, "1"] });
  delete files["a/gone.so"];
  install(other, "a", {
    ...files,
    "a/other-checksum.so": [content, "other"],
    "a/trimmed-differently.so": [`${content}x`, "3"],
  });
  expect(await shareWith(own, other)).toBe(SIZE);
  const same = (path: string) => statSync(join(own, path)).ino === statSync(join(other, path)).ino;
  expect(Object.keys(files).filter(same)).toEqual(["a/equal.so"]);
  // Again: nothing is left to share.
  expect(await shareWith(own, other)).toBe(0);
});
