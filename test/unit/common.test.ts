import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { InvalidArgumentError } from "../../src";
import { onAbort, unlessAborted } from "../../src/common/abort";
import { callback } from "../../src/common/callbacks";
import { checkLimit } from "../../src/common/duration";

describe("waiting for a signal", () => {
  test("one listener serves everything that waits, and is taken away with the last", () => {
    const { signal } = new AbortController();
    const stops = Array.from({ length: 50 }, () => onAbort(signal, () => {}));
    expect(getEventListeners(signal, "abort")).toHaveLength(1);
    for (const stop of stops) stop();
    stops[0]?.();
    expect(getEventListeners(signal, "abort")).toHaveLength(0);
  });

  test("each is called once, but for those that stopped waiting", async () => {
    const controller = new AbortController();
    const calls: number[] = [];
    const stops = [0, 1, 2].map((at) => onAbort(controller.signal, () => calls.push(at)));
    stops[1]?.();
    controller.abort("enough");
    controller.abort("again");
    expect(calls).toEqual([0, 2]);
    onAbort(controller.signal, () => calls.push(3));
    expect(calls).toEqual([0, 2, 3]);
    await expect(unlessAborted(new Promise(() => {}), controller.signal)).rejects.toBe("enough");
  });
});

test("a limit is milliseconds that a timer can count, or none", () => {
  expect(checkLimit("timeout", 5)).toBe(5);
  expect(checkLimit("timeout", undefined)).toBeUndefined();
  expect(checkLimit("timeout", Number.POSITIVE_INFINITY)).toBeUndefined();
  for (const value of [0, -1, Number.NaN, 2 ** 31, "5", null]) {
    expect(() => checkLimit("timeout", value)).toThrow(InvalidArgumentError);
    expect(() => checkLimit("timeout", value)).toThrow("timeout must be");
  }
});

test("a caller's function that throws is reported once, with its name", async () => {
  const reports: unknown[] = [];
  const keep = (error: unknown) => void reports.push(error);
  process.on("uncaughtException", keep);
  try {
    const thrower = () => {
      throw new Error("mine");
    };
    for (let i = 0; i < 3; i++) expect(callback("onProgress", thrower, thrower)?.cause).toEqual(new Error("mine"));
    expect(
      callback(
        "onProgress",
        () => {},
        () => {},
      ),
    ).toBeUndefined();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(reports).toMatchObject([{ code: "ERR_CALLBACK", callback: "onProgress", cause: { message: "mine" } }]);
  } finally {
    process.off("uncaughtException", keep);
  }
});
