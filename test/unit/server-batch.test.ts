import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { TritonServer } from "../../src/server";
import { collect, command, commandModel, load, startOptions } from "../support/triton";

/** Blocks the event loop, so that what comes meanwhile is delivered in one batch. */
function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

describe("events that are delivered together", () => {
  let server: TritonServer;
  let onLog: (line: string) => void = () => {};

  beforeAll(async () => {
    const write = (line: string) => onLog(line);
    server = await TritonServer.start({
      ...(await startOptions()),
      logger: { debug: write, info: write, warn: write, error: write },
    });
    await load(server, "command", commandModel);
  });
  afterAll(() => server.stop());
  afterEach(() => {
    Reflect.deleteProperty(Array.prototype, 5);
    onLog = () => {};
  });

  it("one response that can't be turned into JavaScript fails its own request alone", async () => {
    // The addon's arrays meet this setter, which the host of some old library may well have.
    Object.defineProperty(Array.prototype, 5, {
      configurable: true,
      set(value: unknown) {
        if (value === "poison") throw new RangeError("no room");
        Object.defineProperty(this, 5, { value, configurable: true, enumerable: true, writable: true });
      },
    });
    const texts = ["0", "1", "2", "3", "4"];
    const requests = ["a", "poison", "b", "poison", "c"].map((last) =>
      collect(server.infer(command({ count: 2 }, [...texts, last]))),
    );
    block(500);
    const results = await Promise.allSettled(requests);
    const good = (last: string) => ({
      status: "fulfilled",
      value: [
        [...texts, last],
        [...texts, last],
      ],
    });
    const bad = {
      status: "rejected",
      reason: {
        code: "ERR_TRITON_INTERNAL",
        message: expect.stringMatching(/can't be turned into JavaScript.*no room/),
      },
    };
    expect(results).toMatchObject([good("a"), bad, good("b"), bad, good("c")]);
  });

  it("a logger that throws does not take the responses with it", async () => {
    const uncaught: unknown[] = [];
    const handlers = process.listeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    process.on("uncaughtException", (error) => uncaught.push(error));
    try {
      onLog = () => {
        throw new Error("the logger's own mistake");
      };
      const requests = Array.from({ length: 4 }, () => collect(server.infer(command({ print: "a line" }, ["x"]))));
      block(500);
      expect(await Promise.all(requests)).toEqual(Array(4).fill([["x"]]));
      await new Promise((resolve) => setTimeout(resolve, 50));
      // Once, though every line of the log throws.
      expect(uncaught).toMatchObject([
        {
          code: "ERR_CALLBACK",
          callback: expect.stringMatching(/^logger\./),
          cause: new Error("the logger's own mistake"),
        },
      ]);
    } finally {
      process.removeAllListeners("uncaughtException");
      for (const handler of handlers) process.on("uncaughtException", handler);
    }
  });
});
