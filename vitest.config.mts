import { availableParallelism, totalmem } from "node:os";
import { defineConfig } from "vitest/config";

const GIBIBYTE = 2 ** 30;
// While an engine loads it is mostly one thread of Python: two files side by side keep two processors busy. A file may
// hold two engines, of 2 GiB each.
const workers = Math.max(1, Math.min(availableParallelism(), Math.floor(totalmem() / (5 * GIBIBYTE)), 4));

// `npm test` (scripts/test.mjs) builds the addon, the runtime and the fixtures before it calls vitest.
export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    maxWorkers: workers,
    pool: "forks",
    // What an example imports of the built package is loaded as Node loads it.
    server: { deps: { external: [/\/dist\//] } },
    // Bounds for a hang, not for speed: an engine that loads on a busy machine takes a minute.
    testTimeout: 180_000,
    hookTimeout: 300_000,
    teardownTimeout: 30_000,
    typecheck: { enabled: true, include: ["test/types/**/*.test-d.ts"], tsconfig: "tsconfig.json" },
  },
});
