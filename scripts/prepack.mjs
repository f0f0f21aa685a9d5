// `npm pack` and `npm publish` run this: everything that the tarball holds is built, from a clean clone too.
// With --all (before a publish) every platform's files must be there; without it a machine packs what it can build.
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { readArguments } from "./arguments.mjs";
import { prebuildArm64 } from "./prebuild-arm64.mjs";
import { build, dependencies, fresh, main, NATIVE_SOURCES, root, say } from "./steps.mjs";

const { all } = readArguments(import.meta.filename, { all: { type: "boolean", default: false } }).values;
const PLATFORMS = ["linux-x64", "linux-arm64"];
const FILES = ["tritonode.glibc.node", "libtritonode_punica.so", "libtritonode_warm.so"];

main(async () => {
  await dependencies();
  await build();
  for (const platform of PLATFORMS) {
    if (FILES.every((name) => fresh(join("prebuilds", platform, name), NATIVE_SOURCES))) continue;
    if (platform === "linux-arm64") {
      try {
        await prebuildArm64();
        continue;
      } catch (error) {
        if (all) throw error;
        say(error.message);
      }
    }
    // Files of an older source would be worse than none.
    rmSync(join(root, "prebuilds", platform), { recursive: true, force: true });
    const text = `the tarball holds nothing prebuilt for ${platform}: users there would have to run \`npx tritonode build\``;
    if (all) throw new Error(text);
    say(text);
  }
  // A folder that nobody looks in would be shipped all the same.
  const unknown = readdirSync(join(root, "prebuilds")).filter((name) => !PLATFORMS.includes(name));
  if (unknown.length > 0) throw new Error(`prebuilds holds ${unknown.join(", ")}: remove it, no loader looks there`);
});
