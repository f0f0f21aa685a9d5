// The addon's own layer (native/node) under AddressSanitizer and UBSan, in a Node with their runtime preloaded:
// `npm run test:native:addon`. It drives the addon against the stand-in library of the core's tests, because ASan refuses
// RTLD_DEEPBIND, which Triton's own libraries need. Leaks are not looked for: Node itself leaves some.
import { execFileSync, spawnSync } from "node:child_process";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const require = createRequire(import.meta.url);

function run(command, args, env = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status !== 0) {
    console.error(`${command} ended with ${result.signal ?? result.status}`);
    process.exit(1);
  }
}

function build(directory, target, ...options) {
  run("cmake", ["-S", "cmake", "-B", directory, "-DTRITONODE_SANITIZER=address,undefined", ...options]);
  run("cmake", ["--build", directory, "--parallel", "2", "--target", target]);
}

const addon = join(root, "build-native-addon");
const core = join(root, "build-native-asan");
build(addon, "tritonode", `-DCMAKE_JS_INC=${require("node-api-headers").include_dir}`);
build(core, "stand_in");

const preload = ["libasan.so", "libubsan.so"].map((name) =>
  execFileSync(process.env.CXX ?? "g++", [`-print-file-name=${name}`], { encoding: "utf8" }).trim(),
);
run(
  process.execPath,
  [join(root, "test/native/addon-driver.cjs"), join(addon, "tritonode.node"), join(core, "native/libstand_in.so")],
  {
    LD_PRELOAD: preload.join(" "),
    ASAN_OPTIONS: "detect_leaks=0:detect_stack_use_after_return=1:allow_user_segv_handler=1",
    UBSAN_OPTIONS: "print_stacktrace=1",
  },
);
