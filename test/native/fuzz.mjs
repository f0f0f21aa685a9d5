// `npm run fuzz:native [-- RUNS]`: the readers of bytes in C++ under libFuzzer, AddressSanitizer and UBSan.
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const runs = process.argv[2] ?? "1000000";
const directory = join(root, "build-fuzz");
const corpus = join(directory, "corpus");
mkdirSync(corpus, { recursive: true });

function run(command, args) {
  const result = spawnSync(command, args, { cwd: root, stdio: "inherit" });
  if (result.error?.code === "ENOENT") throw new Error(`${command} is not installed: set CLANG to a clang++ that is`);
  if (result.status !== 0) process.exit(result.status ?? 1);
}

const program = join(directory, "fuzz_bytes");
run(process.env.CLANG ?? "clang++", [
  "-std=c++20",
  "-g",
  "-O1",
  "-Wall",
  "-Wextra",
  "-Werror",
  "-fsanitize=fuzzer,address,undefined",
  "-fno-sanitize-recover=all",
  "test/native/fuzz_bytes.cc",
  "-o",
  program,
]);
run(program, [`-runs=${runs}`, "-max_len=4096", "-print_final_stats=1", corpus]);
