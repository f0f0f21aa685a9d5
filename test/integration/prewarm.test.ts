import { readdirSync, readFileSync, readlinkSync, realpathSync, symlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import {
  findRuntime,
  InvalidArgumentError,
  RequestCancelledError,
  type RestartEvent,
  RuntimeMissingError,
  VllmModel,
  type VllmModelOptions,
  type WarmChild,
} from "../../src";
import { temporaryFolder } from "../support/folders";
import { Host, isRunning } from "../support/host";
import { keepLog, tinyEngine } from "../support/models";
import { adapter, fixtures } from "../support/paths";
import { processTree } from "../support/sockets";
import { until } from "../support/triton";

const tiny = {
  engine: { ...tinyEngine, kv_cache_memory_bytes: 64 << 20 },
  loras: { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") },
};
const greedy = { temperature: 0, max_tokens: 12, ignore_eos: true };

const open: AsyncDisposable[] = [];
const keep = <T extends AsyncDisposable>(disposable: T): T => {
  open.push(disposable);
  return disposable;
};
afterEach(async () => {
  for (const each of open.splice(0).reverse()) await each[Symbol.asyncDispose]();
});

const prewarm = async (options = {}) => keep(await VllmModel.prewarm(options));
const load = async (options: Partial<VllmModelOptions> = {}) =>
  keep(await VllmModel.load({ ...tiny, ...options } as VllmModelOptions));

async function answers(model: VllmModel): Promise<string[]> {
  return Promise.all(
    [undefined, "lora_a", "lora_b"].map(
      async (lora) => (await model.generate("Hello, my name is", { ...greedy, lora })).text,
    ),
  );
}

/** The pid of the child that waits. */
async function waiting(warm: WarmChild, other?: number): Promise<number> {
  await until(() => warm.pid !== undefined && warm.pid !== other, 90_000);
  return warm.pid as number;
}

const commandLine = (pid: number) => readFileSync(`/proc/${pid}/cmdline`, "utf8").replace(/\0+$/, "").split("\0");
const children = () =>
  processTree().filter(
    (pid) => isRunning(pid) && commandLine(pid).some((word) => word.includes("triton_python_backend_stub")),
  );

let cold: string[];
beforeAll(async () => {
  await using model = await VllmModel.load(tiny);
  cold = await answers(model);
});

describe("a warm child", () => {
  test("becomes the next load's child, with the same answers; then there is another one", async () => {
    const warm = await prewarm();
    const pid = await waiting(warm);
    // Nothing of the model runs in it before.
    expect(commandLine(pid)[1]).toMatch(/^-+$/);
    const model = await load();
    expect((await model.info()).pid).toBe(pid);
    expect(model.server.children).toMatchObject([{ pid, model: "vllm_model", instance: "vllm_model_0_0" }]);
    expect(commandLine(pid).slice(1, 3)).toEqual([
      expect.stringMatching(/vllm_model\/1\/model\.py$/),
      expect.stringContaining(model.server.sharedMemoryPrefix),
    ]);
    expect(await answers(model)).toEqual(cold);
    expect(await model.fetch("models").then((response) => response.json())).toMatchObject({ object: "list" });

    const next = await waiting(warm, pid);
    expect(isRunning(next)).toBe(true);
    await warm.dispose();
    expect(warm.pid).toBeUndefined();
    await until(() => !isRunning(next), 5_000);
    // The model keeps the one that it took.
    expect(await answers(model)).toEqual(cold);
  });

  test("is taken by a restart after a crash", async () => {
    const events: RestartEvent[] = [];
    const model = await load({ prewarm: true, restart: "on-failure", onRestart: (event) => void events.push(event) });
    const { pid } = await model.info();
    const warm = await prewarm();
    const spare = await waiting(warm);
    expect(spare).not.toBe(pid);
    process.kill(pid, "SIGKILL");
    await until(() => events.some(({ phase }) => phase === "ready"), 60_000);
    expect((await model.info()).pid).toBe(spare);
    expect(await answers(model)).toEqual(cold);
  });

  test("is forked for the ranks of a model that has several", async () => {
    const ranks = { engine: { ...tiny.engine, model: fixtures.models.tiny_tp, tensor_parallel_size: 2 } };
    const loras = { lora_a: fixtures.adaptersTp["lora_a"] as string };
    const ask = async (model: VllmModel) =>
      Promise.all(
        [undefined, "lora_a"].map(
          async (lora) => (await model.generate("Hello, my name is", { ...greedy, lora })).text,
        ),
      );
    /** Processes below the engine's that Python was started for, to import what ranks import. */
    const imported = (pid: number) =>
      processTree(pid).filter((each) => commandLine(each).some((word) => word.includes("tritonode.ranks")));
    let wanted: string[];
    {
      await using model = await VllmModel.load({ ...ranks, loras });
      wanted = await ask(model);
      expect(imported((await model.info()).pid)).not.toEqual([]);
    }
    const warm = await prewarm();
    const pid = await waiting(warm);
    const model = await load({ ...ranks, loras });
    expect((await model.info()).pid).toBe(pid);
    expect(await ask(model)).toEqual(wanted);
    expect(imported(pid)).toEqual([]);
    // The server of ranks, its two ranks, and the engine's process.
    const tree = processTree(pid);
    expect(tree.length).toBeGreaterThanOrEqual(4);
    await model.dispose();
    await until(() => !tree.some(isRunning), 5_000);
  });

  test("serves one of two loads that come at once", async () => {
    const warm = await prewarm();
    const pid = await waiting(warm);
    const models = await Promise.all(["one", "two"].map((model) => load({ model })));
    const pids = await Promise.all(models.map(async (model) => (await model.info()).pid));
    expect(pids).toContain(pid);
    expect(new Set(pids).size).toBe(2);
    expect(await Promise.all(models.map(answers))).toEqual([cold, cold]);
  });

  test("is for its own environment alone", async () => {
    const environment = { TRITONODE_TEST: "it's" };
    const warm = await prewarm({ environment });
    const pid = await waiting(warm);
    const other = await load({ model: "other" });
    expect((await other.info()).pid).not.toBe(pid);
    process.env["TRITONODE_TEST_OWN"] = "changed";
    const later = await load({ model: "later", environment });
    expect((await later.info()).pid).not.toBe(pid);
    delete process.env["TRITONODE_TEST_OWN"];
    const model = await load({ environment });
    expect((await model.info()).pid).toBe(pid);
    expect(await answers(model)).toEqual(cold);
  });

  test("is one, however often it is asked for, until the last one gives it up", async () => {
    const [one, two] = await Promise.all([prewarm(), prewarm()]);
    const pid = await waiting(one as WarmChild);
    expect(two?.pid).toBe(pid);
    expect(children()).toEqual([pid]);
    await Promise.all([one?.dispose(), one?.dispose()]);
    expect(isRunning(pid)).toBe(true);
    await two?.dispose();
    await until(() => !isRunning(pid), 5_000);
  });

  test("that died is not taken, and is made again", async () => {
    const warm = await prewarm();
    const pid = await waiting(warm);
    process.kill(pid, "SIGKILL");
    await until(() => !isRunning(pid), 5_000);
    const model = await load();
    expect((await model.info()).pid).not.toBe(pid);
    expect(await answers(model)).toEqual(cold);
    await waiting(warm, pid);
  });

  test("holds no socket, and nothing of Node's", async () => {
    const pid = await waiting(await prewarm());
    const targets = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
    expect(targets.filter((target) => /^socket:|^anon_inode:/.test(target))).toEqual([]);
    const [input, output, errors, command, report] = [0, 1, 2, 3, 4].map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
    expect([input, output, errors]).toEqual(["/dev/null", expect.stringMatching(/tritonode-.*\/log$/), output]);
    expect([command, report]).toEqual([expect.stringMatching(/^pipe:/), expect.stringMatching(/^pipe:/)]);
  });
});

describe("prewarming that does not succeed", () => {
  test("names what is wrong with the options", async () => {
    const attempt = (options: unknown) => VllmModel.prewarm(options as Record<string, never>);
    await expect(attempt({ engine: {} })).rejects.toThrow(/knows no option 'engine'/);
    await expect(attempt({ environment: { "a b": "c" } })).rejects.toThrow(InvalidArgumentError);
    await expect(attempt({ timeout: -1 })).rejects.toThrow(InvalidArgumentError);
    await expect(attempt([])).rejects.toThrow(InvalidArgumentError);
    await expect(attempt({ runtime: "/nowhere" })).rejects.toThrow(RuntimeMissingError);
    await expect(VllmModel.load({ ...tiny, prewarm: "yes" as unknown as boolean })).rejects.toThrow(/prewarm must be/);
  });

  test("says why the child can't import, and leaves nothing", async () => {
    // A Python of the same version without packages.
    const runtime = await findRuntime();
    const folder = temporaryFolder("tritonode-python-");
    symlinkSync(realpathSync(runtime.python), join(folder, "python3"));
    const logger = keepLog();
    const failed = VllmModel.prewarm({ runtime: { ...runtime, python: join(folder, "python3") }, logger });
    await expect(failed).rejects.toMatchObject({
      code: "ERR_RUNTIME_BROKEN",
      message: expect.stringContaining("vLLM is not installed in this model's Python"),
      hint: expect.stringContaining("doctor"),
    });
    expect(logger.lines.join("\n")).toContain("Traceback");
    expect(children()).toEqual([]);
  });

  test("says so where the runtime's stub does not start", async () => {
    const runtime = await findRuntime();
    const broken = { ...runtime, triton: { ...runtime.triton, stub: "/bin/false" } };
    await expect(VllmModel.prewarm({ runtime: broken })).rejects.toMatchObject({
      code: "ERR_RUNTIME_BROKEN",
      message: expect.stringContaining("exit code 1"),
    });
  });

  test("ends with its signal or its time, and so does the child", async () => {
    await expect(VllmModel.prewarm({ signal: AbortSignal.timeout(700) })).rejects.toThrow(RequestCancelledError);
    await until(() => children().length === 0, 5_000);
    await expect(VllmModel.prewarm({ timeout: 700 })).rejects.toMatchObject({ code: "ERR_LOAD_TIMEOUT" });
    await until(() => children().length === 0, 5_000);
    const aborted = AbortSignal.abort();
    await expect(VllmModel.prewarm({ signal: aborted })).rejects.toThrow(RequestCancelledError);
  });
});

describe("a host that ends", () => {
  test.each([["SIGKILL"], ["SIGINT"]] as const)("by %s while a warm child waits: the child is gone", async (signal) => {
    const host = new Host(tiny, [{ do: "prewarm" }, { do: "wait" }]);
    const { pid, error } = await host.report("prewarm");
    expect(error).toBeUndefined();
    expect(isRunning(pid as number)).toBe(true);
    host.process.kill(signal);
    await host.ended;
    await until(() => !isRunning(pid as number), 2_000);
  });

  test("while the child imports: it is gone too", async () => {
    const host = new Host(tiny, [{ do: "prewarm" }]);
    const tree = () => processTree(host.process.pid).filter((pid) => isRunning(pid) && pid !== host.process.pid);
    const importing = () => tree().filter((pid) => commandLine(pid).some((word) => word.startsWith("----")));
    await until(() => importing().length > 0, 30_000);
    const before = tree();
    host.process.kill("SIGINT");
    await host.ended;
    await until(() => !before.some(isRunning), 2_000);
  });
});

afterAll(() => expect(children()).toEqual([]));
