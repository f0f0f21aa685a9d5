// `npm run test:arm64`: the arm64 build under emulation (qemu-user) on an x64 machine. What that proves and what it does
// not: docs/reference/arm64.md.
import { join } from "node:path";
import { prebuildArm64 } from "../../scripts/prebuild-arm64.mjs";
import { build, dependencies, main, root, run, say, start } from "../../scripts/steps.mjs";
import { checkPins, checkTools, layOut } from "./parts.mjs";

// What qemu-user does not have: set_robust_list(2), so the kernel never marks a dead owner's mutex and whoever waits for it
// waits on (dead_owner, dead_in_allocator); seccomp filters (watching, without_threads) and subreapers (ending_groups), which these cases set up.
const NOT_UNDER_EMULATION = "^(dead_owner|dead_in_allocator|watching|without_threads|ending_groups)$";

main(async () => {
  checkTools();
  await dependencies();
  await build();
  await prebuildArm64();
  const { sysroot, node, python, runtime } = await layOut();
  await checkPins();
  const emulator = ["qemu-aarch64", "-L", sysroot];
  const failed = [];

  async function check(what, command, args, env = {}) {
    say(`${what} (arm64, emulated)`);
    if ((await start(command, args, { env: { ...process.env, ...env } })) !== 0) failed.push(what);
  }

  say("the C++ core and its tests for arm64 (CMake, cross-built)");
  const core = join(root, "build-arm64/core");
  await run("cmake", [
    ...["-S", "cmake", "-B", core],
    ...["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_BUILD_TYPE=Release"],
    ...["-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++", `-DCMAKE_CROSSCOMPILING_EMULATOR=${emulator.join(";")}`],
  ]);
  await run("cmake", ["--build", core, "--parallel", "2", "--target", "native_tests"]);
  const ctest = ["--test-dir", core, "--output-on-failure", "--exclude-regex", NOT_UNDER_EMULATION];
  await check("C++ core", "ctest", [...ctest, "--timeout", "300"]);

  // What this machine has built for itself does not load there, so it is the prebuilt addon that is tried.
  await check("addon, with Triton", emulator[0], [...emulator.slice(1), node, "test/arm64/server.mjs"], {
    TRITONODE_ARM64_RUNTIME: JSON.stringify(runtime),
  });

  const library = join(root, "prebuilds/linux-arm64/libtritonode_punica.so");
  const folder = "test/python/cpu";
  const kernels = ["-m", "pytest", "-q", `--confcutdir=${folder}`, "-p", "no:cacheprovider"];
  // The portable kernels are tested on x64: here it is NEON that counts, and emulation is slow. So is attention's measure,
  // a product in float64: of the 16-bit types, whose loads and stores alone differ, one case stands for all.
  for (const [name, which] of [
    ["punica_kernels", "not portable"],
    ["linear", "not portable and (products or groups or any_batch)"],
    ["attention", "neon and test_values and (float32 or (bfloat16 and window))"],
  ]) {
    await check(`kernels: ${name}`, python, [...kernels, "-k", which, `${folder}/test_${name}.py`], {
      TRITONODE_PUNICA_LIBRARY: library,
      PYTHONDONTWRITEBYTECODE: "1",
    });
  }

  if (failed.length > 0) throw new Error(`on arm64: ${failed.join(", ")}`);
  say("all of it passes on arm64, emulated");
});
