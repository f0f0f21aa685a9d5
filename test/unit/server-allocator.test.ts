import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { startOptions } from "../support/triton";

const folder = mkdtempSync(join(tmpdir(), "tritonode-test-"));
afterAll(() => rmSync(folder, { recursive: true }));

// What jemalloc, tcmalloc and mimalloc do, on top of glibc's own.
const allocator = `
#include <stddef.h>
void *__libc_malloc(size_t); void *__libc_calloc(size_t, size_t); void *__libc_realloc(void *, size_t); void __libc_free(void *);
void *malloc(size_t n) { return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return __libc_realloc(p, n); }
void free(void *p) { __libc_free(p); }
`;

const script = `
const { TritonServer } = require(process.argv[1]);
TritonServer.start({ runtime: JSON.parse(process.argv[2]) }).then((server) => server.stop()).then(
  () => console.log(JSON.stringify({})),
  ({ code, message, hint }) => console.log(JSON.stringify({ code, message, hint })),
);
`;

it("names an allocator that was preloaded, instead of crashing in it", async () => {
  const library = join(folder, "libmine.so");
  writeFileSync(join(folder, "mine.c"), allocator);
  execFileSync("cc", ["-shared", "-fPIC", "-O1", "-fno-builtin", "-o", library, join(folder, "mine.c")]);
  const { runtime } = await startOptions();
  const server = join(__dirname, "../../dist/server/index.js");
  const child = spawnSync(process.execPath, ["-e", script, server, JSON.stringify(runtime)], {
    encoding: "utf8",
    env: { ...process.env, LD_PRELOAD: library },
  });
  expect(child.signal).toBeNull();
  expect(JSON.parse(child.stdout)).toMatchObject({
    code: "ERR_HOST",
    message: `${library} replaces malloc, beside which Triton's libraries can't be loaded`,
    hint: expect.stringContaining("LD_PRELOAD"),
  });
});
