// `npm run fuzz:native [-- RUNS]`: the readers of bytes in C++ under libFuzzer, AddressSanitizer and UBSan.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { main, root, run } from "../../scripts/steps.mjs";

const runs = process.argv[2] ?? "1000000";
const directory = join(root, "build-fuzz");
const corpus = join(directory, "corpus");
const program = join(directory, "fuzz_bytes");
const compiler = process.env.CLANG ?? "clang++";
const flags = "-std=c++20 -g -O1 -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all";

main(async () => {
  mkdirSync(corpus, { recursive: true });
  await run(compiler, [...flags.split(" "), "test/native/fuzz_bytes.cc", "-o", program]).catch((error) => {
    if (error.code !== "ENOENT") throw error;
    throw new Error(`${compiler} is not installed: set CLANG to a clang++ that is`);
  });
  await run(program, [`-runs=${runs}`, "-max_len=4096", "-print_final_stats=1", corpus]);
});
