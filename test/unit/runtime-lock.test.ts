import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { SetupCancelledError, SetupError } from "../../src/runtime";
import { acquireLock, lockHolder } from "../../src/runtime/install/lock";
import { startTime } from "../../src/runtime/process";
import { temporary } from "./runtime-files";

/** A process that is gone, but whose pid was real. */
async function deadPid(): Promise<number> {
  const child = spawn("true");
  await once(child, "exit");
  return child.pid as number;
}

describe("acquireLock", () => {
  it("is held by one at a time, and the next one gets it", async () => {
    const directory = temporary();
    const first = await acquireLock(directory);
    expect(await lockHolder(directory)).toBe(process.pid);
    const waits: number[] = [];
    let second = false;
    const waiting = acquireLock(directory, { onWait: (pid) => waits.push(pid), interval: 5 }).then((lock) => {
      second = true;
      return lock;
    });
    await sleep(40);
    expect(second).toBe(false);
    expect(waits).toEqual([process.pid]);
    await first.release();
    await (await waiting).release();
    expect(readdirSync(directory)).toEqual([]);
  });

  it("never has two holders among many", async () => {
    const directory = temporary();
    let holders = 0;
    let most = 0;
    const turns = Array.from({ length: 12 }, async () => {
      const lock = await acquireLock(directory, { interval: 1 });
      most = Math.max(most, ++holders);
      await sleep(2);
      holders--;
      await lock.release();
    });
    await Promise.all(turns);
    expect(most).toBe(1);
  });

  it("takes over from a process that is gone, one whose pid was reused, and half a file", async () => {
    const host = hostname();
    const pid = await deadPid();
    for (const text of [
      JSON.stringify({ pid, startTime: "1", host }),
      JSON.stringify({ pid: process.pid, startTime: "1", host }),
      '{"pid": 12',
    ]) {
      const directory = temporary();
      writeFileSync(join(directory, "lock"), text);
      await (await acquireLock(directory, { interval: 5 })).release();
      expect(readdirSync(directory)).toEqual([]);
    }
  });

  it("ends the installer that a killed owner left running", async () => {
    const directory = temporary();
    const orphan = spawn("sleep", ["60"], { detached: true, stdio: "ignore" });
    await once(orphan, "spawn");
    const child = { pid: orphan.pid as number, startTime: startTime(orphan.pid as number) };
    const owner = { pid: await deadPid(), startTime: "1", host: hostname(), child };
    writeFileSync(join(directory, "lock"), JSON.stringify(owner));
    const exited = once(orphan, "exit");
    await (await acquireLock(directory)).release();
    expect((await exited)[1]).toBe("SIGKILL");
  });

  it("leaves a process alone that only has the dead installer's pid", async () => {
    const directory = temporary();
    const other = spawn("sleep", ["60"], { detached: true, stdio: "ignore" });
    await once(other, "spawn");
    const owner = { pid: await deadPid(), startTime: "1", host: hostname(), child: { pid: other.pid, startTime: "1" } };
    writeFileSync(join(directory, "lock"), JSON.stringify(owner));
    await (await acquireLock(directory)).release();
    expect(startTime(other.pid as number)).toBeDefined();
    other.kill("SIGKILL");
  });

  it("stops waiting when its signal says so", async () => {
    const directory = temporary();
    const lock = await acquireLock(directory);
    const controller = new AbortController();
    const waiting = acquireLock(directory, { signal: controller.signal, interval: 10_000 });
    setTimeout(() => controller.abort(), 20);
    await expect(waiting).rejects.toBeInstanceOf(SetupCancelledError);
    expect(existsSync(join(directory, "lock"))).toBe(true);
    await lock.release();
  });

  it("refuses a lock of another machine", async () => {
    const directory = temporary();
    writeFileSync(join(directory, "lock"), JSON.stringify({ pid: 1, startTime: "1", host: "elsewhere" }));
    const error = await acquireLock(directory).catch((reason) => reason);
    expect(error).toBeInstanceOf(SetupError);
    expect(error).toMatchObject({ code: "ERR_SETUP_LOCKED", hint: expect.stringContaining(join(directory, "lock")) });
  });

  it("writes the installer down, and never after the release", async () => {
    const directory = temporary();
    const lock = await acquireLock(directory);
    await lock.setChild(process.pid);
    expect(JSON.parse(readFileSync(join(directory, "lock"), "utf8")).child).toEqual({
      pid: process.pid,
      startTime: startTime(process.pid),
    });
    const late = lock.setChild(1);
    await lock.release();
    await late;
    await lock.setChild(1);
    expect(readdirSync(directory)).toEqual([]);
  });
});
