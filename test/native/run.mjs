// The C++ core under AddressSanitizer with UBSan and LeakSanitizer, then under ThreadSanitizer: `npm run test:native`.
// Needs CMake, a C++20 compiler with the sanitizers' libraries, and nothing else.
import { spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");

function run(command, args, env = {}) {
  const result = spawnSync(command, args, { cwd: root, stdio: "inherit", env: { ...process.env, ...env } });
  if (result.error) throw new Error(`${command}: ${result.error.message}`);
  if (result.status !== 0) process.exit(result.status ?? 1);
}

for (const [name, sanitizer] of [
  ["asan", "address,undefined"],
  ["tsan", "thread"],
]) {
  const directory = join(root, `build-native-${name}`);
  run("cmake", ["-S", "cmake", "-B", directory, `-DTRITONODE_SANITIZER=${sanitizer}`]);
  run("cmake", ["--build", directory, "--parallel", "2", "--target", "native_tests"]);
  run("ctest", ["--test-dir", directory, "--output-on-failure"], {
    ASAN_OPTIONS: "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    UBSAN_OPTIONS: "print_stacktrace=1",
    // A child that forks from a process with threads is what the tests are about.
    TSAN_OPTIONS: "halt_on_error=1:second_deadlock_stack=1:die_after_fork=0",
  });
}
