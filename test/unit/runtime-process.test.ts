import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { SetupCancelledError } from "../../src/runtime";
import { run, startTime } from "../../src/runtime/process";
import { temporary } from "./runtime-files";

describe("run", () => {
  it("gives exit code, output and whole lines", async () => {
    const lines: string[] = [];
    const result = await run("sh", ["-c", "printf 'a\\nb'; printf 'c\\rd\\n'; echo e >&2; printf f; exit 3"], {
      onLine: (line, stream) => lines.push(`${stream} ${line}`),
    });
    expect(result).toMatchObject({ code: 3, signal: null, stdout: "a\nbc\rd\nf", stderr: "e\n", timedOut: false });
    expect(lines.filter((line) => line.startsWith("stdout"))).toEqual([
      "stdout a",
      "stdout bc",
      "stdout d",
      "stdout f",
    ]);
    expect(lines).toContain("stderr e");
  });

  it("ends the whole group when its signal fires", async () => {
    const file = join(temporary(), "pid");
    const controller = new AbortController();
    const running = run("sh", ["-c", `sleep 60 & echo $! > ${file}; echo ready; wait`], {
      signal: controller.signal,
      onLine: () => controller.abort("enough"),
    });
    const error = await running.catch((reason) => reason);
    expect(error).toBeInstanceOf(SetupCancelledError);
    expect(error.cause).toBe("enough");
    const grandchild = Number(readFileSync(file, "utf8"));
    for (let tries = 0; startTime(grandchild) !== undefined && tries < 100; tries++) await sleep(10);
    expect(startTime(grandchild)).toBeUndefined();
  });

  it("kills what ignores SIGTERM", async () => {
    const controller = new AbortController();
    const running = run("sh", ["-c", "trap '' TERM; echo ready; while :; do sleep 0.2; done"], {
      signal: controller.signal,
      onLine: () => controller.abort(),
    });
    await expect(running).rejects.toBeInstanceOf(SetupCancelledError);
  }, 10_000);

  it("says when the time was up", async () => {
    expect(await run("sleep", ["60"], { timeout: 50 })).toMatchObject({
      timedOut: true,
      signal: "SIGTERM",
      code: null,
    });
  });

  it("does not start with a fired signal, and rejects for a missing program", async () => {
    await expect(run("true", [], { signal: AbortSignal.abort() })).rejects.toBeInstanceOf(SetupCancelledError);
    await expect(run("/no/program", [])).rejects.toMatchObject({ code: "ENOENT" });
  });
});

describe("startTime", () => {
  it("is constant for a process and undefined for none", () => {
    expect(startTime(process.pid)).toMatch(/^\d+$/);
    expect(startTime(process.pid)).toBe(startTime(process.pid));
    expect(startTime(2 ** 30)).toBeUndefined();
  });
});
