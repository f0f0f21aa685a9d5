import { existsSync, mkdirSync, readdirSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { keepLoadTimes, LoadClock, loadTimesFolder, readLoadTimes } from "../../src/model/load-times";
import { temporary } from "./runtime-files";

const phases = ["start", "import", "check-adapters", "load-model", "load-adapter", "warm-up", "ready"] as const;

describe("a load's fraction", () => {
  it("never goes back, and is whole at the end alone", () => {
    for (const last of [
      {},
      { cold: {} },
      { warm: { import: 1 } },
      { cold: { start: 300, import: 4_000, "load-model": 2_000, "warm-up": 500 } },
    ]) {
      const clock = new LoadClock(last);
      const fractions = phases.map((phase, at) => clock.step(phase, at * 1_000).fraction);
      expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
      expect(fractions.at(-1)).toBe(1);
      expect(fractions.slice(0, -1).every((fraction) => fraction < 1)).toBe(true);
    }
  });

  it("is that of the usual shares where nothing is known", () => {
    const clock = new LoadClock({});
    expect(clock.step("start", 0)).toEqual({ fraction: 0 });
    expect(clock.step("load-adapter", 900, 1, 2).fraction).toBeCloseTo(0.84);
  });

  it("is that of time where an earlier load tells how long it takes", () => {
    const clock = new LoadClock({
      cold: { start: 500, import: 4_000, "load-model": 3_000, "load-adapter": 1_000, "warm-up": 1_500 },
    });
    expect(clock.step("start", 0)).toEqual({ fraction: 0, remaining: 10_000 });
    // A child that had imported everything: what was saved is no longer to come.
    const skipped = clock.step("load-model", 500);
    expect(skipped).toEqual({ fraction: 500 / 6_000, remaining: 5_500 });
    expect(clock.step("load-model", 1_500).remaining).toBe(4_500);
    expect(clock.step("load-adapter", 4_000, 0, 2).remaining).toBe(2_500);
    expect(clock.step("load-adapter", 4_100, 1, 2).remaining).toBe(2_000);
    expect(clock.step("ready", 6_000)).toEqual({ fraction: 1, remaining: 0 });
    expect(clock.times(6_000)).toEqual({ cold: { start: 500, "load-model": 3_500, "load-adapter": 2_000 } });
  });

  it("is compared with loads of its own kind", () => {
    const cold = { start: 500, import: 4_000, "load-model": 3_000 };
    const clock = new LoadClock({ cold, warm: { start: 200, import: 10, "load-model": 2_000 } });
    expect(clock.step("start", 0).remaining).toBe(7_500);
    clock.setWarm();
    expect(clock.step("import", 200).remaining).toBe(2_010);
    expect(clock.times(2_200)).toEqual({ warm: { start: 200, import: 2_000 } });
    const first = new LoadClock({ cold });
    first.setWarm();
    expect(first.step("load-model", 300).remaining).toBe(3_000);
  });
});

describe("the times of a load", () => {
  const options = { engine: { model: "./tiny" }, loras: { a: "./a" } };
  beforeEach(() => void vi.stubEnv("XDG_CACHE_HOME", temporary()));
  afterEach(() => void vi.unstubAllEnvs());

  it("are those of the same model with the same settings on the same device", async () => {
    expect(await readLoadTimes(options, "cpu")).toEqual({});
    await keepLoadTimes(options, "cpu", { cold: { import: 12 } });
    expect(await readLoadTimes(options, "cpu")).toEqual({ cold: { import: 12 } });
    await keepLoadTimes(options, "cpu", { warm: { import: 1 } });
    await keepLoadTimes(options, "cpu", { cold: { import: 13 } });
    expect(await readLoadTimes(options, "cpu")).toEqual({ cold: { import: 13 }, warm: { import: 1 } });
    expect(await readLoadTimes(options, "cuda")).toEqual({});
    expect(await readLoadTimes({ ...options, loras: {} }, "cpu")).toEqual({});
    await keepLoadTimes({ modelRepository: "models" }, "cpu", { cold: { import: 7 } });
    expect(await readLoadTimes({ modelRepository: join(process.cwd(), "models") }, "cpu")).toEqual({
      cold: { import: 7 },
    });
    expect(readdirSync(loadTimesFolder())).toHaveLength(2);
  });

  it("are forgotten with the oldest models, and where they can't be read", async () => {
    mkdirSync(loadTimesFolder(), { recursive: true });
    for (let at = 0; at < 64; at++) {
      const file = join(loadTimesFolder(), `${at}.json`);
      writeFileSync(file, "{}");
      utimesSync(file, at + 1, at + 1);
    }
    await keepLoadTimes(options, "cpu", { cold: { import: 12 } });
    expect(readdirSync(loadTimesFolder())).toHaveLength(64);
    expect(existsSync(join(loadTimesFolder(), "0.json"))).toBe(false);
    const own = readdirSync(loadTimesFolder()).find((name) => name.length > 10) ?? "";
    for (const text of ["{", "null", '{"cold":{"import":"x","other":1},"warm":3}']) {
      writeFileSync(join(loadTimesFolder(), own), text);
      expect(await readLoadTimes(options, "cpu")).toEqual({});
    }
  });

  it("are lost, and nothing else, where nothing can be written", async () => {
    vi.stubEnv("XDG_CACHE_HOME", "/proc/nowhere");
    await keepLoadTimes(options, "cpu", { cold: { import: 12 } });
    expect(await readLoadTimes(options, "cpu")).toEqual({});
  });
});
