import { defineConfig } from "vitest/config";

// `npm test` (scripts/test.mjs) builds the addon, the runtime and the fixtures before it calls vitest.
export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // Each file loads engines of its own on two cores: side by side they would only slow each other down.
    fileParallelism: false,
    pool: "forks",
    // Bounds for a hang, not for speed: an engine that loads on a busy machine takes a minute.
    testTimeout: 180_000,
    hookTimeout: 300_000,
    teardownTimeout: 30_000,
    typecheck: { enabled: true, include: ["test/types/**/*.test-d.ts"], tsconfig: "tsconfig.json" },
  },
});
