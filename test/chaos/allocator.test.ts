import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { expect, test } from "vitest";
import { command, commandModel, startOptions } from "../support/triton";

// A killed child can leave the heap that it shares with this process half-changed, and Triton goes on freeing what it has
// there. In a process of its own: a fault in it ends that.
test("a child that dies inside the shared allocator leaves a host that serves on", { timeout: 180_000 }, async () => {
  const { runtime } = await startOptions();
  const request = command({ count: 1_000_000, sleep: 0.0005 }, ["x".repeat(2_000)]);
  const input = JSON.stringify({ runtime, code: commandModel, request, rounds: 3 });
  const child = spawnSync(process.execPath, [join(__dirname, "../support/allocator-child.cjs"), input], {
    encoding: "utf8",
    timeout: 170_000,
  });
  expect({ signal: child.signal, status: child.status, stderr: child.stderr }).toEqual({
    signal: null,
    status: 0,
    stderr: "",
  });
  const { codes, answers, reports } = JSON.parse(child.stdout);
  expect(codes).toEqual(Array(3).fill("ERR_ENGINE_DIED"));
  expect(answers).toEqual([["x".repeat(2_000)]]);
  expect(reports.length).toBeGreaterThanOrEqual(3);
  for (const line of reports) expect(line).toContain("what was free there is given up");
});
