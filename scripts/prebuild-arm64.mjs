// `npm run build:arm64`: the addon and the Punica library for Linux on arm64, cross-built by the same prebuildify and the
// same binding.gyp as those for x64, into prebuilds/linux-arm64/. In a copy of the sources, for node-gyp would put its
// arm64 objects where those of this machine's own build lie.
import { cpSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { main, onPath, root, run, say } from "./steps.mjs";

const TRIPLET = "aarch64-linux-gnu";

export async function prebuildArm64() {
  const missing = [`${TRIPLET}-g++`, `${TRIPLET}-strip`].filter((name) => onPath(name) === undefined);
  if (missing.length > 0) {
    throw new Error(`${missing.join(" and ")} not found on PATH; Debian and Ubuntu: apt-get install g++-${TRIPLET}`);
  }
  say("the addon and the Punica library for arm64 (prebuildify, cross-built)");
  const copy = join(root, "build-arm64/gyp");
  rmSync(copy, { recursive: true, force: true });
  mkdirSync(copy, { recursive: true });
  for (const name of ["native", "binding.gyp", "package.json"]) {
    cpSync(join(root, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(root, "node_modules"), join(copy, "node_modules"));
  const env = {
    ...process.env,
    CC: `${TRIPLET}-gcc`,
    CXX: `${TRIPLET}-g++`,
    AR: `${TRIPLET}-ar`,
    PREBUILD_ARCH: "arm64",
    PREBUILD_STRIP_BIN: `${TRIPLET}-strip`,
    // A Node installed here brings headers with settings for x64; those of Node-API are the same everywhere.
    TRITONODE_BUILD_HEADERS: "package",
  };
  await run(process.execPath, ["native/build.mjs", "--prebuild"], { cwd: copy, env });
  const target = join(root, "prebuilds/linux-arm64");
  rmSync(target, { recursive: true, force: true });
  cpSync(join(copy, "prebuilds/linux-arm64"), target, { recursive: true });
  rmSync(copy, { recursive: true });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main(prebuildArm64);
