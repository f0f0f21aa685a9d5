// `npm pack` and `npm publish` run this: everything that the tarball holds is built, from a clean clone too.
// With --all (before a publish) every platform's files must be there; without it a machine packs what it can build.
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { build, dependencies, main, root, say } from "./steps.mjs";

const PLATFORMS = ["linux-x64", "linux-arm64"];
const FILES = ["tritonode.glibc.node", "libtritonode_punica.so"];

main(async () => {
  await dependencies();
  await build();
  const missing = PLATFORMS.filter(
    (platform) => !FILES.every((name) => existsSync(join(root, "prebuilds", platform, name))),
  );
  for (const platform of missing) {
    const text = `no prebuilt files for ${platform}: users there would have to run \`npx tritonode build\``;
    if (process.argv.includes("--all")) throw new Error(text);
    say(text);
  }
  // A folder that nobody looks in would be shipped all the same.
  const unknown = readdirSync(join(root, "prebuilds")).filter((name) => !PLATFORMS.includes(name));
  if (unknown.length > 0) throw new Error(`prebuilds holds ${unknown.join(", ")}: remove it, no loader looks there`);
});
