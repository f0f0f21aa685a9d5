import { once } from "node:events";
import { closeSync, fstatSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { root } from "../support/paths";

test("a worker that ends closes no descriptor of another thread", async () => {
  const directory = mkdtempSync(join(tmpdir(), "channel-"));
  const worker = new Worker(join(root, "test/support/channel-worker.cjs"), { workerData: { directory } });
  const ended = once(worker, "exit");
  const [message] = await once(worker, "message");
  expect(message).toEqual({ opened: true });
  // One of them gets the number that the worker's channel had.
  const files = Array.from({ length: 32 }, () => openSync("/dev/null", "r"));
  try {
    worker.postMessage("end");
    await ended;
    for (const file of files) expect(fstatSync(file).isCharacterDevice()).toBe(true);
  } finally {
    for (const file of files) closeSync(file);
    rmSync(directory, { recursive: true });
  }
});
