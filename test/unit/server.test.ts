import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { Worker } from "node:worker_threads";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  DeadlineExceededError,
  DisposedError,
  EngineDiedError,
  InvalidArgumentError,
  ModelLoadError,
  RequestCancelledError,
  TritonServerError,
} from "../../src/errors";
import { loadAddon } from "../../src/native/binding";
import { type InferenceResponse, TritonServer } from "../../src/server";
import { collect, command, commandModel, identityModel, load, startOptions, until } from "../support/triton";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

/** What a guest must not change of its host. */
function hostState(): object {
  const status = readFileSync("/proc/self/status", "utf8");
  return {
    environment: { ...process.env },
    cwd: process.cwd(),
    umask: process.umask(),
    title: process.title,
    // Which signals are caught, ignored and blocked.
    signals: /SigBlk.*\nSigIgn.*\nSigCgt.*/.exec(status)?.[0],
    // What a child of the host's own inherits.
    inherited: execFileSync("/bin/ls", ["-l", "/proc/self/fd"], { encoding: "utf8" })
      .split("\n")
      .filter((line) => !/-> (socket:|.*\/fd$)/.test(line))
      .map((line) => line.replace(/^.* (\d+ ->)/, "$1")),
    stdio: [0, 1, 2].map((fd) => readFileSync(`/proc/self/fdinfo/${fd}`, "utf8").match(/flags:.*/)?.[0]),
  };
}

describe("TritonServer", () => {
  const log: string[] = [];
  let server: TritonServer;
  let before: object;

  beforeAll(async () => {
    const write = (message: string) => log.push(message);
    before = hostState();
    server = await TritonServer.start({
      ...(await startOptions()),
      logger: { debug: write, info: write, warn: write, error: write },
      childEnvironment: { QUOTED: `a 'b' "c" $(d) \`e\` \\ ;\nnext`, HOME: undefined },
    });
    await load(server, "command", commandModel);
  });

  afterAll(async () => {
    await server.stop();
    expect(existsSync(server.privateDirectory)).toBe(false);
    expect(readdirSync("/dev/shm").filter((name) => name.startsWith(server.sharedMemoryPrefix))).toEqual([]);
  });

  it("tells what it is", async () => {
    expect(await server.isLive()).toBe(true);
    expect(await server.isReady()).toBe(true);
    expect(await server.isModelReady("command")).toBe(true);
    expect((await server.metadata()).version).toMatch(/^2\.\d+\.\d+$/);
    expect(await server.modelMetadata("command")).toMatchObject({ name: "command", platform: "python" });
    expect(await server.modelConfig("command")).toMatchObject({ model_transaction_policy: { decoupled: true } });
    expect(await server.repositoryIndex()).toEqual([{ name: "command", version: "1", state: "READY" }]);
  });

  it("streams the responses in order", async () => {
    const responses: InferenceResponse[] = [];
    for await (const response of server.infer({ ...command({ count: 3 }, ["héllo", "😀"]), id: "mine" })) {
      responses.push(response);
    }
    expect(responses).toHaveLength(3);
    expect(responses[0]).toMatchObject({
      model: "command",
      version: 1,
      id: "mine",
      outputs: { out: { datatype: "BYTES", shape: [2], data: ["héllo", "😀"] } },
    });
  });

  it("puts U+FFFD for what is no text, and gives raw bytes on request", async () => {
    const bytes = [Uint8Array.of(0x61, 0xff, 0x62), new TextEncoder().encode("ok")];
    expect(await collect(server.infer(command({}, bytes)))).toEqual([["a\uFFFDb", "ok"]]);
    expect(await collect(server.infer({ ...command({}, bytes), raw: true }))).toEqual([bytes]);
    expect(await collect(server.infer(command({}, ["lone \uD800"])))).toEqual([["lone \uFFFD"]]);
  });

  it("carries every datatype there and back", async () => {
    const tensors = {
      BOOL: [true, false],
      UINT8: Uint8Array.of(0, 255),
      UINT16: Uint16Array.of(0, 65535),
      UINT32: Uint32Array.of(0, 2 ** 32 - 1),
      UINT64: BigUint64Array.of(0n, 2n ** 64n - 1n),
      INT8: Int8Array.of(-128, 127),
      INT16: Int16Array.of(-32768, 32767),
      INT32: Int32Array.of(-(2 ** 31), 2 ** 31 - 1),
      INT64: BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n),
      FP16: Uint16Array.of(0x3c00, 0xc000),
      FP32: Float32Array.of(-0.5, 3.25),
      FP64: Float64Array.of(Math.PI, -Number.MAX_VALUE),
      BYTES: ["", "text"],
    } as const;
    const names = Object.keys(tensors) as (keyof typeof tensors)[];
    await load(server, "identity", identityModel(names.map((name) => `TYPE_${name === "BYTES" ? "STRING" : name}`)));
    const response = await server
      .infer({
        model: "identity",
        inputs: names.map((name) => ({
          name: `in_TYPE_${name === "BYTES" ? "STRING" : name}`,
          datatype: name,
          shape: [2, 1],
          data: tensors[name],
        })),
      })
      .response();
    for (const name of names) {
      const output = response.outputs[`out_TYPE_${name === "BYTES" ? "STRING" : name}`];
      expect(output).toMatchObject({ datatype: name, shape: [2, 1], data: tensors[name] });
    }
    await server.unloadModel("identity");
    expect(await server.isModelReady("identity")).toBe(false);
  });

  it("passes request parameters on", async () => {
    const parameters = { text: "x", flag: true, whole: 7, big: 2n ** 60n, part: 0.5 };
    const [json] = (await collect(server.infer({ ...command({ parameters: true }), parameters }))) as [string[]];
    const seen = JSON.parse(json?.[0] ?? "", (_, value) => value);
    expect(seen).toEqual({ ...parameters, big: Number(2n ** 60n) });
  });

  it("sets up the child, and only the child", async () => {
    const names = ["QUOTED", "HOME", "TRITONODE_PRIVATE_DIR", "PYTHONPATH"];
    const [values] = await collect(server.infer(command({ environment: names })));
    expect(values).toEqual([`a 'b' "c" $(d) \`e\` \\ ;\nnext`, "", server.privateDirectory, ""]);
    expect(process.env.QUOTED).toBeUndefined();
  });

  it("rejects with the backend's error", async () => {
    const stream = server.infer(command({ count: 2, error: "no more" }));
    const seen: unknown[] = [];
    const failure = await (async () => {
      for await (const response of stream) seen.push(response);
    })().catch((error: unknown) => error);
    expect(seen).toHaveLength(2);
    expect(failure).toBeInstanceOf(TritonServerError);
    expect(failure).toMatchObject({ code: "ERR_TRITON_INTERNAL", message: "no more" });
    expect(await stream.next()).toEqual({ done: true, value: undefined });
  });

  it("rejects requests that Triton refuses", async () => {
    await expect(server.infer({ ...command({}), model: "nobody" }).response()).rejects.toMatchObject({
      code: "ERR_TRITON_NOT_FOUND",
    });
    await expect(server.infer({ model: "command", inputs: [] }).response()).rejects.toMatchObject({
      code: "ERR_TRITON_INVALID_ARG",
    });
    expect(() => server.infer({ ...command({}), deadline: -1 })).toThrow(InvalidArgumentError);
    expect(() => server.infer({ ...command({}), version: 0 })).toThrow(InvalidArgumentError);
    expect(() => server.infer({ model: "", inputs: [] })).toThrow(InvalidArgumentError);
  });

  it("cancels in Triton when the consumer leaves, aborts, or is too late", async () => {
    const cancelled = () => log.filter((line) => line.startsWith("cancelled after")).length;
    const endless = command({ count: 100_000, sleep: 0.005 });
    const start = cancelled();

    for await (const _ of server.infer(endless)) break;
    await until(() => cancelled() === start + 1);

    const controller = new AbortController();
    const aborted = collect(server.infer({ ...endless, signal: controller.signal }));
    setTimeout(() => controller.abort(new Error("enough")), 50);
    await expect(aborted).rejects.toMatchObject({ code: "ERR_REQUEST_CANCELLED", cause: new Error("enough") });
    await until(() => cancelled() === start + 2);

    const begin = performance.now();
    await expect(collect(server.infer({ ...endless, deadline: 100 }))).rejects.toBeInstanceOf(DeadlineExceededError);
    expect(performance.now() - begin).toBeLessThan(1_000);
    await until(() => cancelled() === start + 3);

    const stream = server.infer(endless);
    const read = collect(stream);
    stream.cancel();
    await expect(read).rejects.toBeInstanceOf(RequestCancelledError);
    await until(() => cancelled() === start + 4);
    await expect(server.infer({ ...endless, signal: AbortSignal.abort() }).next()).rejects.toBeInstanceOf(
      RequestCancelledError,
    );
    await until(() => loadAddon().liveCalls() === 0);
    expect(server.runningRequests).toBe(0);
  });

  it("calls back instead of queueing, and survives a callback that throws", async () => {
    const seen: boolean[] = [];
    await server.infer({ ...command({ count: 2 }), onResponse: (_, final) => seen.push(final) }).finished;
    expect(seen).toEqual([false, false, true]);

    const uncaught = new Promise((resolve) => process.once("uncaughtException", resolve));
    const thrower = server.infer({
      ...command({ count: 2 }),
      onResponse: () => {
        throw new Error("mine");
      },
    });
    const other = collect(server.infer(command({ count: 5 })));
    await expect(thrower.finished).rejects.toMatchObject({ code: "ERR_REQUEST_CANCELLED" });
    expect(await uncaught).toMatchObject({ code: "ERR_CALLBACK", callback: "onResponse", cause: new Error("mine") });
    expect(await other).toHaveLength(5);
  });

  it("keeps the memory of an unread stream bounded", async () => {
    const merge = (earlier: InferenceResponse, later: InferenceResponse): InferenceResponse => ({
      ...later,
      outputs: {
        out: {
          name: "out",
          datatype: "BYTES",
          shape: [1],
          data: [`${earlier.outputs.out?.data[0]}${later.outputs.out?.data[0]}`],
        },
      },
    });
    const stream = server.infer({ ...command({ count: 100 }), merge });
    await until(() => server.runningRequests === 0);
    expect((await collect(stream)).flat().join("")).toBe("a".repeat(100));

    const unread = server.infer({ ...command({ count: 100 }), maxQueuedResponses: 10 });
    await until(() => server.runningRequests === 0);
    await expect(unread.next()).rejects.toMatchObject({ code: "ERR_TRITON_UNAVAILABLE" });
  });

  it("cancels a stream that was forgotten", async () => {
    const cancelled = () => log.filter((line) => line.startsWith("cancelled after")).length;
    const start = cancelled();
    server.infer(command({ count: 100_000, sleep: 0.005 }));
    await until(() => {
      collectGarbage();
      return cancelled() > start;
    });
  });

  it("serves 1,000 requests at once, each with its own answer", async () => {
    const answers = await Promise.all(
      Array.from({ length: 1_000 }, (_, i) => collect(server.infer(command({ count: 2 }, [`${i}`])))),
    );
    expect(answers).toEqual(Array.from({ length: 1_000 }, (_, i) => [[`${i}`], [`${i}`]]));
    expect(loadAddon().liveCalls()).toBe(0);
    const statistics = (await server.modelStatistics("command")) as { model_stats: { inference_count: number }[] };
    expect(statistics.model_stats[0]?.inference_count).toBeGreaterThanOrEqual(1_000);
    expect(await server.metrics()).toMatch(/^nv_inference_request_success\{model="command",version="1"\} \d+/m);
  });

  it("says why a model does not load", async () => {
    await expect(server.loadModel("nowhere")).rejects.toBeInstanceOf(ModelLoadError);
    await expect(server.loadModel("../x")).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(load(server, "broken", "import nothing_of_that_name")).rejects.toMatchObject({
      code: "ERR_MODEL_LOAD",
      message: expect.stringContaining("nothing_of_that_name"),
    });
    await expect(load(server, "dying", `import os\nos.kill(os.getpid(), 9)`)).rejects.toMatchObject({
      code: "ERR_STUB_START",
    });
    await expect(server.registerRepository("/nowhere")).rejects.toBeInstanceOf(InvalidArgumentError);
    expect(await collect(server.infer(command({})))).toEqual([["a"]]);
  });

  it("is shared with worker threads, and outlives them", async () => {
    const source = `
      const { workerData, parentPort } = require("node:worker_threads");
      const { TritonServer } = require(workerData.server);
      (async () => {
        const server = await TritonServer.start({ runtime: workerData.runtime });
        const texts = [];
        for await (const { outputs } of server.infer(workerData.request)) texts.push(outputs.out.data[0]);
        const endless = { ...workerData.request };
        if (workerData.hang) {
          endless.inputs = [endless.inputs[0], { name: "command", datatype: "BYTES", data: ['{"count":100000,"sleep":0.005}'] }];
          server.infer(endless);
        } else await server.stop();
        parentPort.postMessage({ directory: server.privateDirectory, texts });
      })();
    `;
    const { runtime } = await startOptions();
    const results = await Promise.all(
      [false, true, false, true].map(async (hang, i) => {
        const worker = new Worker(source, {
          eval: true,
          workerData: {
            server: `${process.cwd()}/dist/server/index.js`,
            runtime,
            hang,
            request: command({ count: 2 }, [`worker ${i}`]),
          },
        });
        // Listened for from the start: it may come in the same turn as the message.
        const exit = new Promise((resolve) => worker.once("exit", resolve));
        const message = await new Promise((resolve, reject) => {
          worker.once("message", resolve);
          worker.once("error", reject);
        });
        if (hang) await worker.terminate();
        else await exit;
        return message;
      }),
    );
    expect(results).toEqual(
      [0, 1, 2, 3].map((i) => ({ directory: server.privateDirectory, texts: [`worker ${i}`, `worker ${i}`] })),
    );
    await until(() => loadAddon().liveCalls() === 0);
    expect(await collect(server.infer(command({})))).toEqual([["a"]]);
  });

  it("rejects at once when the child is killed, and serves again after a load", async () => {
    const died: string[] = [];
    server.onModelDied((model) => died.push(model));
    const streams = Array.from({ length: 64 }, () => collect(server.infer(command({ count: 100_000, sleep: 0.005 }))));
    // One that nobody waits for any more must be let go of as well.
    const left = server.infer(command({ count: 100_000, sleep: 0.005 }));
    await left.next();
    const begin = performance.now();
    process.kill(server.children.find((child) => child.model === "command")?.pid ?? 0, "SIGKILL");
    await left.return();
    const outcomes = await Promise.allSettled(streams);
    expect(performance.now() - begin).toBeLessThan(1_000);
    for (const outcome of outcomes) expect(outcome).toMatchObject({ reason: expect.any(EngineDiedError) });
    expect(died).toEqual(["command"]);
    expect(await server.isModelReady("command")).toBe(false);
    await expect(server.infer(command({})).response()).rejects.toBeInstanceOf(EngineDiedError);
    // Triton lets go of its requests a little later than their promises reject.
    await until(() => loadAddon().liveCalls() === 0);

    await server.loadModel("command", { config: { backend: "python" } });
    expect(await server.isModelReady("command")).toBe(true);
    expect(await collect(server.infer(command({})))).toEqual([["a"]]);
  });

  it("leaves its host as it was", async () => {
    const after = hostState();
    expect(after).toEqual(before);
    const children = server.children.map(({ pid }) => readlinkSync(`/proc/${pid}/fd/0`));
    expect(children.every((path) => path === "/dev/null")).toBe(true);
  });

  it("stops once, whoever asks and how often", async () => {
    const { runtime } = await startOptions();
    const second = await TritonServer.start({ runtime });
    expect(second.privateDirectory).toBe(server.privateDirectory);
    const running = collect(second.infer(command({ count: 100_000, sleep: 0.005 })));
    const stopping = second.stop();
    expect(second.stop()).toBe(stopping);
    await expect(running).rejects.toBeInstanceOf(RequestCancelledError);
    await stopping;
    expect(() => second.infer(command({}))).toThrow(DisposedError);
    await expect(second.isLive()).rejects.toBeInstanceOf(DisposedError);
    expect(await server.isLive()).toBe(true);
    await expect(TritonServer.start({ runtime: { ...runtime, directory: "/elsewhere" } })).rejects.toBeInstanceOf(
      InvalidArgumentError,
    );
  });
});
