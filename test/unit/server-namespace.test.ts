import { spawn, spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { findRuntime } from "../../src/runtime/find/find";
import { TritonServer } from "../../src/server";

const mayUnshare = spawnSync("unshare", ["--pid", "--fork", "--mount-proc", "true"]).status === 0;
if (!mayUnshare) console.warn("skipped: this user may make no PID namespace (unshare --pid)");

it.skipIf(!mayUnshare)("a start leaves a live server in another PID namespace alone", async () => {
  const runtime = await findRuntime();
  // The server's pid in its namespace must be nobody's here; each /bin/true uses up one.
  const isRunning = (pid: number) => existsSync(`/proc/${pid}`);
  let free = 300;
  while (Array.from({ length: 12 }, (_, i) => free + i).some(isRunning)) free++;
  const script = `i=0; while [ $i -lt ${free} ]; do /bin/true; i=$((i+1)); done; "$@"; exit $?`;
  const child = [process.execPath, join(__dirname, "../support/namespace-child.cjs"), JSON.stringify(runtime)];
  const other = spawn("unshare", ["--pid", "--fork", "--mount-proc", "sh", "-c", script, "sh", ...child], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const exit = new Promise((resolve) => other.once("exit", resolve));
  const { pid, directory, prefix } = JSON.parse(
    await new Promise<string>((resolve) => other.stdout.once("data", (data) => resolve(String(data)))),
  );
  expect(isRunning(pid)).toBe(false);
  const regions = () => readdirSync("/dev/shm").filter((name) => name.startsWith(prefix));
  const before = regions();
  expect(before).not.toEqual([]);

  const server = await TritonServer.start({ runtime });
  expect(existsSync(directory)).toBe(true);
  expect(regions()).toEqual(before);
  await server.stop();

  other.stdin.write("stop");
  expect(await exit).toBe(0);
  expect([existsSync(directory), regions()]).toEqual([false, []]);
});
