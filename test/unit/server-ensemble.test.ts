import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { loadAddon } from "../../src/native/binding";
import { TritonServer } from "../../src/server";
import { collect, commandModel, startOptions, until } from "../support/triton";

const input = (name: string, dims: number) => `{ name: "${name}" data_type: TYPE_STRING dims: [ ${dims} ] }`;

const ensemble = `platform: "ensemble"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ ${input("text", -1)}, ${input("command", 1)} ]
output [ ${input("out", -1)} ]
ensemble_scheduling {
  step [ {
    model_name: "command"
    model_version: -1
    input_map { key: "text" value: "text" }
    input_map { key: "command" value: "command" }
    output_map { key: "out" value: "out" }
  } ]
}
`;

const request = (model: string, value: object) => ({
  model,
  inputs: [
    { name: "text", datatype: "BYTES" as const, data: ["a"] },
    { name: "command", datatype: "BYTES" as const, data: [JSON.stringify(value)] },
  ],
});

describe("an ensemble over a Python model", () => {
  const repository = mkdtempSync(join(tmpdir(), "tritonode-test-"));
  const died: string[] = [];
  let server: TritonServer;

  beforeAll(async () => {
    mkdirSync(join(repository, "command/1"), { recursive: true });
    writeFileSync(join(repository, "command/1/model.py"), commandModel);
    // Triton looks at the models below an ensemble when it loads it for the first time.
    for (const name of ["first", "second", "third", "fourth"]) {
      mkdirSync(join(repository, name, "1"), { recursive: true });
      writeFileSync(join(repository, name, "config.pbtxt"), ensemble);
    }
    server = await TritonServer.start({ ...(await startOptions()), modelRepositories: [repository] });
    server.onModelDied((model) => died.push(model));
    await server.loadModel("command", { config: { backend: "python" } });
  });
  afterAll(async () => {
    await server.stop();
    rmSync(repository, { recursive: true });
  });

  /** Writes the Python model anew, with a time that is later by `milliseconds` than now. */
  const change = (milliseconds: number, code = commandModel) => {
    const file = join(repository, "command/1/model.py");
    const time = new Date(Date.now() + milliseconds);
    writeFileSync(file, code);
    utimesSync(file, time, time);
  };
  const childOf = (model: string) => server.children.find((child) => child.model === model)?.pid;

  it("leaves the model's folder as it is", () => {
    expect(readdirSync(join(repository, "command/1"))).toEqual(["model.py"]);
  });

  it("loads beside the model's child, and answers through it", async () => {
    const before = childOf("command");
    await server.loadModel("first");
    expect(server.children.map(({ pid }) => pid)).toEqual([before]);
    expect(await collect(server.infer(request("first", {})))).toEqual([["a"]]);
  });

  it("does not take a child that Triton replaces for a dead one", async () => {
    const before = childOf("command");
    change(10_000);
    await server.loadModel("second");
    await until(() => childOf("command") !== before && server.children.length === 1, 10_000);
    expect(died).toEqual([]);
    expect(await collect(server.infer(request("second", {})))).toEqual([["a"]]);
    expect(await collect(server.infer(request("command", {})))).toEqual([["a"]]);
    expect(await server.isModelReady("command")).toBe(true);
    expect(await server.isReady()).toBe(true);
  });

  it("rejects what a child served that is killed while its successor starts", async () => {
    const before = childOf("command");
    const lost = collect(server.infer(request("command", { count: 100_000, sleep: 0.005 })));
    // The successor takes a while to import this, and is heard of long before it is up.
    change(20_000, `import time\ntime.sleep(1)\n${commandModel}`);
    const loaded = server.loadModel("third");
    const successor = () => server.children.find(({ instance, pid }) => instance !== "command" && pid !== before);
    await until(() => successor() !== undefined, 10_000);
    process.kill(before ?? 0, "SIGKILL");
    await expect(lost).rejects.toMatchObject({
      code: "ERR_ENGINE_DIED",
      message: expect.stringContaining(`${before}`),
    });
    await loaded;
    expect(died).toEqual([]);
    expect(await collect(server.infer(request("command", {})))).toEqual([["a"]]);
    await until(() => loadAddon().liveCalls() === 0);
  });

  it("rejects what is sent to a killed child while its successor starts, before and after its death", async () => {
    const before = childOf("command");
    change(30_000, `import time\ntime.sleep(3)\n${commandModel}`);
    const loaded = server.loadModel("fourth");
    const successor = () => server.children.find(({ instance, pid }) => instance !== "command" && pid !== before);
    await until(() => successor() !== undefined, 10_000);
    const stream = server.infer(request("command", { count: 100_000, sleep: 0.005 }));
    await stream.next();
    process.kill(before ?? 0, "SIGKILL");
    await expect(collect(stream)).rejects.toMatchObject({ code: "ERR_ENGINE_DIED" });
    await expect(collect(server.infer(request("command", {})))).rejects.toMatchObject({ code: "ERR_ENGINE_DIED" });
    expect(successor()).toBeDefined();
    await loaded;
    expect(died).toEqual([]);
    expect(await collect(server.infer(request("command", {})))).toEqual([["a"]]);
    await until(() => loadAddon().liveCalls() === 0);
  }, 30_000);
});
