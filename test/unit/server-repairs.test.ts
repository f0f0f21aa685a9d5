import { readFileSync } from "node:fs";
import { afterEach, describe, expect, it } from "vitest";
import { InvalidArgumentError } from "../../src/errors";
import { TritonServer } from "../../src/server";
import { collect, command, commandModel, load, startOptions } from "../support/triton";

/** Starts the server, lets its Python model answer, stops it, and gives back its log. */
async function serve(): Promise<string[]> {
  const log: string[] = [];
  const write = (message: string) => log.push(message);
  const server = await TritonServer.start({
    ...(await startOptions()),
    logger: { debug: write, info: write, warn: write, error: write },
  });
  try {
    await load(server, "command", commandModel);
    expect(await collect(server.infer(command({})))).toEqual([["a"]]);
  } finally {
    await server.stop();
  }
  return log;
}

const repairs = (log: string[]) => log.filter((line) => line.includes("repairs of Triton"));

describe("the repairs of Triton", () => {
  afterEach(() => {
    delete process.env["TRITONODE_REPAIRS_OFF"];
  });

  it("are all active for the Triton they were made for, and the log says so", async () => {
    expect(repairs(await serve())).toEqual([
      "tritonode: repairs of Triton 2.51.0: dead-owner, lost-replies, dead-child, slow-child, " +
        "idle-child, warm-child, private-memory, temporary-folders, busy-instance",
    ]);
  });

  it("can be switched off, one by one and all together", async () => {
    process.env["TRITONODE_REPAIRS_OFF"] = "idle-child,private-memory";
    const [some] = repairs(await serve());
    expect(some).toContain(
      ": dead-owner, lost-replies, dead-child, slow-child, warm-child, temporary-folders, " +
        "busy-instance; without idle-child (switched off)",
    );
    process.env["TRITONODE_REPAIRS_OFF"] = "all";
    expect(repairs(await serve())[0]).toContain("2.51.0: none; without dead-owner (switched off)");
  });

  it("are known by name", async () => {
    process.env["TRITONODE_REPAIRS_OFF"] = "dead-owners";
    const failure = await serve().catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(InvalidArgumentError);
    expect((failure as Error).message).toContain(
      "'dead-owners' is not a repair; known are all, dead-owner, lost-replies",
    );
    delete process.env["TRITONODE_REPAIRS_OFF"];
    expect(repairs(await serve())).toHaveLength(1);
  });

  it("find the same copy of the library at each start", async () => {
    await serve();
    await serve();
    const maps = readFileSync("/proc/self/maps", "latin1").split("\n");
    const copies = maps.filter((line) => line.includes("/libtriton_python.so")).map((line) => line.split(/ +/)[4]);
    expect(new Set(copies).size).toBe(1);
  });
});
