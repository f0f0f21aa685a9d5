import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { EngineDiedError, type RestartEvent, VllmModel } from "../../src";
import { keepLog, tinyEngine } from "../support/models";
import { adapter } from "../support/paths";
import { chaosOnly } from "../support/skip";
import { until } from "../support/triton";

// The Python child is killed for real, at every moment of its life. `npm run chaos` repeats this with each signal.

const greedy = { temperature: 0, max_tokens: 12, ignore_eos: true };
const endless = { temperature: 0, max_tokens: null, ignore_eos: true };
const lora = { enable_lora: true, max_loras: 4, max_lora_rank: 16 };

function childOf(model: VllmModel): number {
  const child = model.server.children.find(({ model: name, instance }) => name === model.name && instance !== name);
  if (child === undefined) throw new Error("the model has no child");
  return child.pid;
}

/** Streams that run, each with its first text read. */
async function start(model: VllmModel, count: number, loras: (string | undefined)[] = [undefined]) {
  const streams = Array.from({ length: count }, (_, at) =>
    model.stream(`Prompt number ${at}`, { ...endless, lora: loras[at % loras.length] }),
  );
  await Promise.all(streams.map((stream) => stream.next()));
  return streams.map(async (stream) => {
    for await (const _ of stream) void _;
  });
}

describe("restart: on-failure", () => {
  const events: RestartEvent[] = [];
  const log = keepLog();
  let model: VllmModel;

  beforeAll(async () => {
    model = await VllmModel.load({
      engine: { ...tinyEngine, ...lora },
      loras: { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") },
      logger: log,
      restart: { policy: "on-failure", delay: 50 },
      onRestart: (event) => events.push(event),
    });
  });
  afterAll(() => model.dispose());

  async function backUp(): Promise<void> {
    await until(() => events.at(-1)?.phase === "ready", 60_000).catch(() => {
      throw new Error(`not back: ${JSON.stringify(events)}\n${log.lines.slice(-40).join("\n")}`);
    });
  }

  test("killed (-9) under 64 streams: all reject within 1 s, run-time adapters come back", async () => {
    // What is served at run time differs from the files: one more, pinned; one replaced; one less.
    await model.adapters.load("late", adapter("lora_c"));
    await model.adapters.pin("late");
    await model.adapters.replace("lora_a", adapter("lora_d"));
    await model.adapters.unload("lora_b");
    const before = await Promise.all(
      ["late", "lora_a", undefined].map((name) => model.generate("Hello", { ...greedy, lora: name })),
    );
    const running = await start(model, 64, ["late", "lora_a", undefined]);
    const killed = performance.now();
    process.kill(childOf(model), "SIGKILL");
    const ready: boolean[] = [];
    void Promise.race(running).catch(async () => ready.push(await model.isReady()));
    const results = await Promise.allSettled(running);
    expect(performance.now() - killed).toBeLessThan(1000);
    expect(results.map((result) => (result as PromiseRejectedResult).reason.code)).toEqual(
      Array(64).fill("ERR_ENGINE_DIED"),
    );
    await until(() => ready.length > 0);
    expect(ready).toEqual([false]);
    // While it is down a request is refused at once, by the same name.
    await expect(model.generate("Hello", greedy)).rejects.toBeInstanceOf(EngineDiedError);
    await backUp();
    expect(await model.isReady()).toBe(true);
    const adapters = await model.adapters.list();
    expect(adapters.map(({ name, pinned, path }) => [name, pinned, path])).toEqual([
      ["lora_a", false, adapter("lora_d")],
      ["late", true, adapter("lora_c")],
    ]);
    const after = await Promise.all(
      ["late", "lora_a", undefined].map((name) => model.generate("Hello", { ...greedy, lora: name })),
    );
    expect(after.map(({ text }) => text)).toEqual(before.map(({ text }) => text));
    expect(events.map(({ phase }) => phase)).toEqual(["died", "loading", "ready"]);
    expect((await model.info()).requests).toEqual({ running: 0, waiting: 0 });
  }, 120_000);

  test("a segmentation fault (-11) at idle", async () => {
    events.length = 0;
    process.kill(childOf(model), "SIGSEGV");
    await until(async () => !(await model.isReady()), 1000);
    await backUp();
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(12);
  }, 120_000);

  test("an abort while an adapter loads: the load rejects, too", async () => {
    events.length = 0;
    const loading = model.adapters.load("another", adapter("lora_e"));
    process.kill(childOf(model), "SIGABRT");
    const outcome = await loading.then(
      () => undefined,
      (error) => error,
    );
    await backUp();
    const names = (await model.adapters.list()).map(({ name }) => name);
    // Either it failed and is not there, or it was told to be there and is.
    if (outcome === undefined) expect(names).toContain("another");
    else expect(outcome).toBeInstanceOf(EngineDiedError);
    expect(names).toEqual(expect.arrayContaining(["lora_a", "late"]));
  }, 120_000);

  test("killed again while it restarts: tried again, with a longer pause", {
    ...chaosOnly,
    timeout: 180_000,
  }, async () => {
    events.length = 0;
    const first = childOf(model);
    process.kill(first, "SIGKILL");
    await until(() => {
      const child = model.server.children.find(({ pid, instance }) => pid !== first && instance !== model.name);
      if (child === undefined) return false;
      process.kill(child.pid, "SIGKILL");
      return true;
    }, 60_000);
    await until(() => events.some(({ phase }) => phase === "failed"), 60_000);
    await backUp();
    const [died, failed] = ["died", "failed"].map((phase) => events.find((event) => event.phase === phase));
    expect(failed?.delay).toBe(2 * (died?.delay ?? 0));
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(12);
  });

  test("killed while it is disposed of: dispose ends all the same", async () => {
    const running = await start(model, 16);
    const pid = childOf(model);
    const disposed = model.dispose({ drain: true });
    process.kill(pid, "SIGKILL");
    const results = await Promise.allSettled(running);
    expect(results.every(({ status }) => status === "rejected")).toBe(true);
    const began = performance.now();
    await disposed;
    expect(performance.now() - began).toBeLessThan(15_000);
    expect(events.filter(({ phase }) => phase === "loading").length).toBeLessThan(8);
  }, 60_000);
});

describe("restart: never", () => {
  test("killed while it loads: an error, and the next load works", async () => {
    const log = keepLog();
    const failed = VllmModel.load({
      engine: tinyEngine,
      logger: log,
      onProgress: ({ phase }) => {
        if (phase !== "load-model") return;
        // The loading child is the youngest of this process's; the host has not told its number yet.
        const pids = log.lines.map((line) => /pid[ =](\d+)/.exec(line)?.[1]).filter((pid) => pid !== undefined);
        process.kill(Number(pids.at(-1)), "SIGKILL");
      },
    });
    await expect(failed).rejects.toMatchObject({ code: expect.stringMatching(/^ERR_(MODEL_LOAD|STUB_START)$/) });
    await using model = await VllmModel.load({ engine: tinyEngine });
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(12);
    // The default: it stays down, and says so for as long as it is asked.
    process.kill(childOf(model), "SIGKILL");
    await until(async () => !(await model.isReady()), 1000);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    expect(await model.isReady()).toBe(false);
    await expect(model.generate("Hello")).rejects.toBeInstanceOf(EngineDiedError);
    // Nor was another child started for it.
    expect(model.server.children.filter(({ model: name }) => name === model.name)).toEqual([]);
  }, 120_000);
});
