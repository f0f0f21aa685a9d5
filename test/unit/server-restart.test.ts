import { existsSync, readdirSync } from "node:fs";
import { expect, test } from "vitest";
import { EngineDiedError } from "../../src/errors";
import { TritonServer } from "../../src/server";
import { collect, command, commandModel, load, startOptions, until } from "../support/triton";

// Without the repair `lost-replies` Triton keeps the model of a killed child whose requests had no end, and the server with
// it: `stop` rejects with "Exit timeout expired".
test.each([
  ["idle", 0, {}],
  ["while a request waits for its next response", 1, { count: 1, sleep: 1000 }],
  ["under a stream", 1, { count: 1_000_000, sleep: 0.01 }],
  ["under 16 streams", 16, { count: 1_000_000, sleep: 0.001 }],
])(
  "a server whose child was killed %s, and started again, is deleted with all it had",
  async (_, count, what) => {
    const server = await TritonServer.start({ ...(await startOptions()), exitTimeout: 10 });
    const { privateDirectory, sharedMemoryPrefix } = server;
    await load(server, "command", commandModel);
    const streams = Array.from({ length: count }, () => server.infer(command(what)));
    await Promise.all(streams.map((stream) => stream.next()));
    const child = server.children.find(({ instance, model }) => instance !== model)?.pid as number;
    const running = streams.map((stream) => collect(stream));
    process.kill(child, "SIGKILL");
    const results = await Promise.allSettled(running);
    for (const result of results) expect((result as PromiseRejectedResult).reason).toBeInstanceOf(EngineDiedError);
    await until(() => !server.children.some(({ pid }) => pid === child));

    await load(server, "command", commandModel);
    expect(await collect(server.infer(command({ count: 2 })))).toEqual([["a"], ["a"]]);
    await server.stop();
    expect(existsSync(privateDirectory)).toBe(false);
    expect(readdirSync("/dev/shm").filter((name) => name.includes(sharedMemoryPrefix))).toEqual([]);
  },
  60_000,
);

/** Its instance takes seconds to start, in which the one before it serves. */
const slow = (version: number) =>
  commandModel.replace(
    "def initialize(self, args):",
    `def initialize(self, args):\n        time.sleep(4)  # ${version}`,
  );

test("a child that is killed while its successor starts: what it served is lost, also what came after that start", async () => {
  const server = await TritonServer.start(await startOptions());
  const old = () => server.children.find(({ instance, model }) => instance !== model)?.pid as number;
  try {
    await load(server, "command", slow(1));
    const first = old();
    const reload = load(server, "command", slow(2));
    const successor = () => server.children.some(({ pid, instance, model }) => instance !== model && pid !== first);
    await until(successor, 20_000);
    const stream = server.infer(command({ count: 1_000_000, sleep: 0.01 }));
    await stream.next();
    process.kill(first, "SIGKILL");
    await expect(collect(stream)).rejects.toBeInstanceOf(EngineDiedError);
    expect(successor()).toBe(true);
    await reload;
    expect(await collect(server.infer(command({})))).toEqual([["a"]]);
  } finally {
    await server.stop();
  }
}, 120_000);

/** Its instance fails to start, after a while. */
const failing = commandModel.replace(
  "def initialize(self, args):",
  'def initialize(self, args):\n        time.sleep(2)\n        raise ValueError("on purpose")',
);

test("a reload that fails: the version before it goes on, and is dead if its child was killed meanwhile", async () => {
  const server = await TritonServer.start({ ...(await startOptions()), exitTimeout: 10 });
  const died: string[] = [];
  server.onModelDied((model) => died.push(model));
  const instances = () => server.children.filter(({ instance, model }) => instance !== model);
  await load(server, "command", commandModel);
  await expect(load(server, "command", failing)).rejects.toMatchObject({ code: "ERR_MODEL_LOAD" });
  expect(await collect(server.infer(command({})))).toEqual([["a"]]);
  expect(died).toEqual([]);

  const first = instances()[0]?.pid as number;
  const stream = server.infer(command({ count: 1_000_000, sleep: 0.01 }));
  await stream.next();
  const reload = load(server, "command", failing.replace("on purpose", "on purpose again"));
  await until(() => instances().some(({ pid }) => pid !== first), 20_000);
  process.kill(first, "SIGKILL");
  await expect(collect(stream)).rejects.toBeInstanceOf(EngineDiedError);
  expect(died).toEqual([]);
  await expect(reload).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_(MODEL_LOAD|STUB_START)$/) });
  expect(died).toEqual(["command"]);
  await expect(collect(server.infer(command({})))).rejects.toBeInstanceOf(EngineDiedError);

  await load(server, "command", commandModel);
  expect(await collect(server.infer(command({})))).toEqual([["a"]]);
  await server.stop();
}, 120_000);
