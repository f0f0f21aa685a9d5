// Builds the addon without a network: `node native/build.mjs [--debug]` with node-gyp into build/, or
// `node native/build.mjs --prebuild` with prebuildify into prebuilds/.
//
// In build/ only what has changed is compiled, headers, binding.gyp and compiler flags included; `--clean` starts from
// scratch, as prebuildify always does.
//
// node-gyp looks for Node's headers beside the running Node and otherwise downloads them from the Node project's site,
// which many build machines can't reach. An addon that uses only Node-API needs four headers, and they are an npm
// package (node-api-headers); from it this script lays out what node-gyp expects of a Node installation.
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);

/** The folder that the running Node was installed to, if its own headers of the same version are there. */
function installedHeaders() {
  const prefix = dirname(dirname(process.execPath));
  try {
    const text = readFileSync(join(prefix, "include/node/node_version.h"), "utf8");
    const part = (name) => new RegExp(`#define NODE_${name}_VERSION (\\d+)`).exec(text)?.[1];
    const version = `v${part("MAJOR")}.${part("MINOR")}.${part("PATCH")}`;
    return version === process.version ? prefix : undefined;
  } catch {
    return undefined;
  }
}

/** A stand-in for a Node installation, made of node-api-headers. */
function packagedHeaders() {
  const directory = join(root, "build-headers");
  const include = join(directory, "include/node");
  mkdirSync(include, { recursive: true });
  const source = require("node-api-headers").include_dir;
  for (const file of readdirSync(source)) copyFileSync(join(source, file), join(include, file));
  const [major, minor, patch] = process.versions.node.split(".");
  writeFileSync(
    join(include, "node_version.h"),
    `#define NODE_MAJOR_VERSION ${major}\n#define NODE_MINOR_VERSION ${minor}\n#define NODE_PATCH_VERSION ${patch}\n`,
  );
  // node-gyp includes both files into every project. Node's own set what V8 needs; Node-API needs none of it.
  writeFileSync(join(include, "config.gypi"), JSON.stringify({ target_defaults: {}, variables: {} }));
  writeFileSync(
    join(include, "common.gypi"),
    JSON.stringify({
      variables: { node_shared: "false", openssl_fips: "" },
      target_defaults: {
        default_configuration: "Release",
        cflags: ["-fPIC", "-pthread"],
        configurations: {
          Debug: { cflags: ["-g", "-O0"] },
          Release: { cflags: ["-O3"], defines: ["NDEBUG"] },
        },
      },
    }),
  );
  return directory;
}

/** Of the other configuration, what a loader would take for what was built now. It is linked again in a moment. */
function removeOther(debug) {
  const folder = join(root, "build", debug ? "Release" : "Debug");
  if (!existsSync(folder)) return;
  for (const file of readdirSync(folder).filter((name) => /\.(node|so)$/.test(name))) rmSync(join(folder, file));
}

const nodedir = process.env.TRITONODE_BUILD_HEADERS === "package" ? undefined : installedHeaders();
const headers = nodedir ?? packagedHeaders();
const given = process.argv.slice(2);
const [prebuild, clean, debug] = ["--prebuild", "--clean", "--debug"].map((option) => given.includes(option));
const options = given.filter((option) => option !== "--prebuild" && option !== "--clean");
// `configure` reads binding.gyp and the lists of sources; make then compiles what is older than its sources, or was
// compiled by another command. `rebuild` deletes build/ before.
const steps = clean ? ["rebuild"] : ["configure", "build"];
const program = prebuild ? require.resolve("prebuildify/bin.js") : require.resolve("node-gyp/bin/node-gyp.js");
const args = prebuild
  ? ["--napi", "--strip", "--tag-libc", ...options]
  : [...steps, `--nodedir=${headers}`, "--jobs=2", "--loglevel=warn", ...options];
// prebuildify calls node-gyp without options of ours; node-gyp reads this variable as --nodedir.
const env = { ...process.env, npm_config_nodedir: headers };
const result = spawnSync(process.execPath, [program, ...args], { cwd: root, stdio: "inherit", env });
if (result.status !== 0) process.exit(result.status ?? 1);
if (!prebuild) {
  const made = `build/${debug ? "Debug" : "Release"}/tritonode.node`;
  if (!existsSync(join(root, made))) throw new Error(`node-gyp succeeded without making ${made}`);
  removeOther(debug);
}
