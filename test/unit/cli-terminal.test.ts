import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { barState } from "../../src/cli/model";
import { ProgressBar } from "../../src/cli/progress-bar";
import { reportError } from "../../src/cli/report-error";
import { fractionOf } from "../../src/cli/setup-progress";
import { hasColor } from "../../src/cli/terminal";
import { RuntimeMissingError } from "../../src/errors";
import { Collected, context } from "./cli-context";

function terminal(columns = 80): Collected {
  const output = new Collected();
  output.isTTY = true;
  output.columns = columns;
  return output;
}

describe("colours", () => {
  it("are for terminals, and NO_COLOR turns them off", () => {
    expect(hasColor(terminal(), {})).toBe(true);
    expect(hasColor(terminal(), { NO_COLOR: "1" })).toBe(false);
    expect(hasColor(terminal(), { NO_COLOR: "1", FORCE_COLOR: "1" })).toBe(false);
    expect(hasColor(terminal(), { TERM: "dumb" })).toBe(false);
    expect(hasColor(new Collected(), {})).toBe(false);
    expect(hasColor(new Collected(), { FORCE_COLOR: "1" })).toBe(true);
  });
});

describe("ProgressBar", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("redraws one line on a terminal and takes it away at the end", () => {
    const output = terminal(60);
    let now = 0;
    const bar = new ProgressBar(output, { NO_COLOR: "1" }, () => now);
    bar.update({ phase: "download", message: "torch", fraction: 0.5 });
    expect(output.text).toBe(`\r\u001b[2K${"█".repeat(12)}${"░".repeat(12)} torch`);
    now = 10;
    bar.update({ phase: "download", message: "too soon", fraction: 0.6 });
    expect(output.text).not.toContain("too soon");
    now = 100;
    bar.update({ phase: "download", message: "x".repeat(200), fraction: 2 });
    const last = output.text.split("\u001b[2K").at(-1) as string;
    expect(last).toHaveLength(59);
    expect(last.endsWith("…")).toBe(true);
    bar.log("a line");
    bar.end();
    expect(output.text).toContain("\r\u001b[2Ka line\n");
    expect(output.text.endsWith("\r\u001b[2K")).toBe(true);
    expect(vi.getTimerCount()).toBe(0);
  });

  it("asks what to show at each redraw", () => {
    const output = terminal();
    let fraction = 0;
    const bar = new ProgressBar(output, { NO_COLOR: "1" });
    bar.update(() => ({ phase: "import", message: `at ${fraction}`, fraction }));
    fraction = 0.5;
    vi.advanceTimersByTime(500);
    expect(output.text).toContain(`${"█".repeat(12)}${"░".repeat(12)} at 0.5`);
    bar.end();
    expect(vi.getTimerCount()).toBe(0);
  });

  it("turns while nothing is reported", () => {
    const output = terminal();
    const bar = new ProgressBar(output, { NO_COLOR: "1" });
    bar.update({ phase: "check", message: "importing vLLM" });
    const before = output.text.length;
    vi.advanceTimersByTime(500);
    expect(output.text.length).toBeGreaterThan(before);
    expect(output.text).toContain("⠹ importing vLLM");
    bar.end();
  });

  it("writes plain lines elsewhere: each phase, and now and then within one", () => {
    const output = new Collected();
    let now = 0;
    const bar = new ProgressBar(output, {}, () => now);
    const steps: [number, string, string][] = [
      [0, "download", "a"],
      [1_000, "download", "b"],
      [5_100, "download", "c"],
      [5_200, "install", "d"],
    ];
    for (const [time, phase, message] of steps) {
      now = time;
      bar.update({ phase, message, fraction: 0.1 });
    }
    bar.end("done");
    expect(output.text).toBe("a\nc\nd\ndone\n");
  });
});

it("fractionOf counts whole packages and the part of the one at hand", () => {
  const base = { phase: "download", message: "" } as const;
  expect(fractionOf({ ...base, index: 1, count: 4 })).toBe(0);
  expect(fractionOf({ ...base, index: 3, count: 4, receivedBytes: 50, totalBytes: 100 })).toBe(0.625);
  expect(fractionOf({ ...base, receivedBytes: 1, totalBytes: 2 })).toBe(0.5);
  expect(fractionOf({ ...base, receivedBytes: 1, totalBytes: 0 })).toBe(0);
  expect(fractionOf(base)).toBeUndefined();
});

describe("barState", () => {
  it("is the step's own, and shows for how long it has lasted", () => {
    const half = {
      phase: "load-adapter",
      adapter: "alpaca",
      done: 1,
      total: 2,
      elapsed: 3_400,
      fraction: 0.84,
    } as const;
    expect(barState(half, 2_000)).toEqual({
      phase: "load-adapter",
      message: "loading the adapter alpaca (5 s)",
      fraction: 0.84,
    });
  });

  it("goes on with time where an earlier load tells how long it takes", () => {
    const step = { phase: "import", elapsed: 1_000, fraction: 0.1, remaining: 9_000 } as const;
    expect(barState(step)).toMatchObject({ message: "importing vLLM (1 s, about 9 s left)", fraction: 0.1 });
    expect(barState(step, 4_000)).toMatchObject({ message: "importing vLLM (5 s, about 5 s left)", fraction: 0.5 });
    expect(barState(step, 20_000)).toMatchObject({ message: "importing vLLM (21 s)", fraction: 0.99 });
  });
});

describe("reportError", () => {
  it("gives message, hint and code of our own errors, and no stack", () => {
    const surroundings = context();
    reportError(new RuntimeMissingError("no runtime in /x"), surroundings);
    expect(surroundings.stderr.text).toBe(
      "error: no runtime in /x\nhint:  run: npx tritonode setup\ncode:  ERR_RUNTIME_MISSING, https://github.com/tritonode/tritonode/blob/main/docs/errors.md#err_runtime_missing\n",
    );
  });

  it("gives the stack of everything else, and of causes when asked", () => {
    const unknown = context();
    reportError(new TypeError("a bug"), unknown);
    expect(unknown.stderr.text).toContain("cli-terminal.test.ts");
    const debug = context({ environment: { TRITONODE_DEBUG: "1" } });
    reportError(new RuntimeMissingError("outer", { cause: new Error("inner") }), debug);
    expect(debug.stderr.text).toContain("Error: inner");
    const text = context();
    reportError("just text", text);
    expect(text.stderr.text).toBe("error: just text\n");
  });
});
