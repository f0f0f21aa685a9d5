import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, statSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  DisposedError,
  type GenerateOptions,
  RequestCancelledError,
  TritonodeError,
  VllmModel,
  type VllmModelOptions,
} from "../../src";
import { Host, isRunning } from "../support/host";
import { tinyEngine } from "../support/models";
import { adapter, root } from "../support/paths";
import { until } from "../support/triton";

// Two of everything, a good guest, and every way to dispose: on one engine, because each costs seconds to start.

const options: VllmModelOptions = {
  engine: { ...tinyEngine, max_loras: 4, max_lora_rank: 16 },
  loras: { lora_a: adapter("lora_a") },
};
const greedy = { temperature: 0, max_tokens: 8, ignore_eos: true };
const endless = { temperature: 0, max_tokens: null, ignore_eos: true };

/** What a guest must leave as it is. */
function hostState() {
  const status = readFileSync("/proc/self/status", "utf8");
  const mask = process.umask(0o22);
  process.umask(mask);
  return {
    environment: { ...process.env },
    directory: process.cwd(),
    umask: mask,
    title: process.title,
    // Signals that are blocked, ignored, caught (proc(5)); pending ones come and go.
    signals: [...status.matchAll(/^(Sig(?:Blk|Ign|Cgt)):\s+(\S+)/gm)].map(([, name, bits]) => `${name} ${bits}`),
    limits: readFileSync("/proc/self/limits", "utf8"),
    // Flags in octal: 02000000 is close-on-exec, 04000 O_NONBLOCK.
    stdio: [0, 1, 2].map((fd) => /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, "utf8"))?.[1]),
    // What printf of a decimal number gives shows LC_NUMERIC of the C library.
    locale: Intl.DateTimeFormat().resolvedOptions().locale,
    listeners: process.eventNames().map((name) => `${String(name)} ${process.listenerCount(name)}`),
  };
}

/** Descriptors that a program which this process starts finds open. */
function inherited(): string[] {
  return execFileSync("/bin/sh", ["-c", "for f in /proc/$$/fd/*; do readlink $f; done; true"], {
    stdio: ["ignore", "pipe", "ignore"],
  })
    .toString()
    .split("\n")
    .filter((target) => target.includes("tritonode") || target.includes("triton_"));
}

describe("one engine", () => {
  let before: ReturnType<typeof hostState>;
  let model: VllmModel;
  let directory: string;
  let child: number;

  beforeAll(async () => {
    before = hostState();
    model = await VllmModel.load(options);
    directory = model.server.privateDirectory;
    child = (await model.info()).pid;
  });
  afterAll(async () => {
    await model.dispose();
    expect(hostState()).toEqual(before);
    await until(() => !isRunning(child), 5_000);
  });

  test("a good guest: nothing of the host has changed, its own children inherit nothing", async () => {
    await model.generate("Hello", greedy);
    expect(hostState()).toEqual(before);
    expect(inherited()).toEqual([]);
  });

  test("private folder, FIFO, shared memory and temporary files are this user's alone", async () => {
    expect(statSync(directory).mode & 0o777).toBe(0o700);
    expect(statSync(join(directory, "log")).mode & 0o777).toBe(0o600);
    const regions = readdirSync("/dev/shm").filter((name) => name.startsWith(model.server.sharedMemoryPrefix));
    expect(regions.length).toBeGreaterThan(0);
    for (const region of regions) expect(statSync(join("/dev/shm", region)).mode & 0o777).toBe(0o600);
    const environment = readFileSync(`/proc/${child}/environ`, "utf8").split("\0");
    expect(environment).toContain(`TMPDIR=${directory}/tmp`);
    expect((await model.info()).engineArgs["trust_remote_code"] ?? false).toBe(false);
    // Its stdin is not the terminal, its output goes into the private FIFO.
    expect(readlinkSync(`/proc/${child}/fd/0`)).toBe("/dev/null");
    for (const fd of [1, 2]) expect(readlinkSync(`/proc/${child}/fd/${fd}`)).toBe(join(directory, "log"));
  });

  test("the same model loaded twice is shared; another one of that name is refused", async () => {
    const began = performance.now();
    const twin = await VllmModel.load(options);
    expect(performance.now() - began).toBeLessThan(2_000);
    expect((await twin.info()).pid).toBe(child);
    await expect(VllmModel.load({ engine: { ...tinyEngine, max_model_len: 128 } })).rejects.toMatchObject({
      code: "ERR_MODEL_NAME_IN_USE",
    });
    await twin.dispose();
    expect(isRunning(child)).toBe(true);
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(8);
  });

  test("ten workers share it with this thread; each leaves in its own way", async () => {
    const { text } = await model.generate("Hello, my name is", greedy);
    const workers = Array.from({ length: 10 }, (_, at) => {
      const worker = new Worker(join(root, "test/support/share-worker.cjs"), {
        workerData: { load: options, stay: at % 2 === 1 },
      });
      const messages: { text?: string; pid?: number; error?: string; disposed?: boolean }[] = [];
      worker.on("message", (message) => messages.push(message));
      return { worker, messages, stay: at % 2 === 1 };
    });
    await until(() => workers.every(({ messages }) => messages.length > 0), 60_000);
    for (const { messages } of workers) expect(messages[0]).toEqual({ text, pid: child });
    // Half of them are torn down in the middle of 16 requests each.
    await Promise.all(workers.filter(({ stay }) => stay).map(({ worker }) => worker.terminate()));
    await until(() => workers.every(({ stay, messages }) => stay || messages.some(({ disposed }) => disposed)), 60_000);
    await until(async () => {
      const { running, waiting } = (await model.info()).requests;
      return running + waiting === 0;
    }, 10_000);
    expect(isRunning(child)).toBe(true);
    expect((await model.generate("Hello, my name is", greedy)).text).toBe(text);
  }, 120_000);

  test("a consumer that stops reading: its deltas merge, the others go on", async () => {
    const lazy = model.stream("Slow", { ...endless, max_tokens: 400 });
    await lazy.next();
    const began = performance.now();
    await Promise.all(
      Array.from({ length: 16 }, (_, at) => model.generate(`Other ${at}`, { ...greedy, max_tokens: 64 })),
    );
    expect(performance.now() - began).toBeLessThan(20_000);
    await until(async () => (await model.info()).requests.running === 0, 30_000);
    let chunks = 0;
    for await (const _ of lazy) chunks++;
    // What it missed waits as one piece or a few, not as hundreds.
    expect(chunks).toBeLessThan(8);
    expect(lazy.usage.completionTokens).toBe(400);
  }, 60_000);

  test("more requests than the KV cache holds: all are served", async () => {
    const { kvCache } = await model.info();
    const results = await Promise.all(
      Array.from({ length: 300 }, (_, at) => model.generate(`Many ${at}`, { ...greedy, max_tokens: 4 })),
    );
    expect(kvCache.tokens).toBeGreaterThan(0);
    expect(results.every(({ usage }) => usage.completionTokens === 4)).toBe(true);
  }, 60_000);

  test("whatever a caller asks for: a result or a typed error, and the engine goes on", async () => {
    const times = Number(process.env["TRITONODE_FUZZ"] ?? 1);
    const value = fc.oneof(
      fc.anything({ withBigInt: true, withNullPrototype: true, maxDepth: 2 }),
      fc.constantFrom<unknown>(0, 1, -1, 2, 0.5, true, "auto", [], "\ud800", 2 ** 53, Number.NaN),
    );
    const parameters = [
      "temperature",
      "top_p",
      "top_k",
      "min_p",
      "n",
      "stop",
      "seed",
      "logprobs",
      "prompt_logprobs",
      "logit_bias",
      "bad_words",
      "min_tokens",
      "presence_penalty",
      "repetition_penalty",
      "allowed_token_ids",
      "structured_outputs",
      "lora",
      "priority",
      "deadline",
      "nonsense",
    ];
    let results = 0;
    let errors = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: "binary", minLength: 1, maxLength: 30 }),
        fc.dictionary(fc.constantFrom(...parameters), value, { minKeys: 1, maxKeys: 3 }),
        async (prompt, odd) => {
          try {
            const { choices } = await model.generate(prompt, {
              max_tokens: 2,
              deadline: 20_000,
              ...odd,
            } as GenerateOptions);
            expect(choices.length).toBeGreaterThan(0);
            results++;
          } catch (error) {
            if (!(error instanceof TritonodeError)) throw error;
            // A fault of the request is named as one, never as one of the engine.
            expect(error.code).not.toMatch(/INTERNAL|DIED/);
            errors++;
          }
        },
      ),
      { numRuns: 300 * times },
    );
    console.log(`${results} results, ${errors} typed errors`);
    expect(errors).toBeGreaterThan(0);
    expect((await model.info()).pid).toBe(child);
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(8);
  }, 300_000);

  // A seed like this killed the engine, a lone surrogate left its request without an answer; the others were near.
  test.each([
    { seed: 1e300 },
    { seed: -(2 ** 63) - 2048 },
    { top_k: 2 ** 31, temperature: 1 },
    { priority: -(2 ** 53) },
    { lora: "\ud800" },
  ])("a value that does not fit: %o", async (odd) => {
    const failure = await model.generate("Hello", { ...greedy, deadline: 10_000, ...odd }).catch((error) => error);
    expect(failure).toBeInstanceOf(TritonodeError);
    expect(failure.code).toMatch(/INVALID_ARGUMENT|ADAPTER_NOT_FOUND/);
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(8);
  });

  test("dispose: from a finally block, twice, concurrently; running requests are cancelled, or end with drain", async () => {
    for (const drain of [false, true]) {
      const twin = await VllmModel.load(options);
      const running = Promise.allSettled(
        Array.from({ length: 8 }, (_, at) => twin.generate(`Running ${at}`, { ...greedy, max_tokens: 200 })),
      );
      const disposals: Promise<void>[] = [];
      try {
        await twin.stream("First", { ...greedy, max_tokens: 4 }).next();
      } finally {
        disposals.push(twin.dispose({ drain }), twin.dispose(), twin[Symbol.asyncDispose]());
        await disposals[0];
      }
      expect(disposals[1]).toBe(disposals[0]);
      const results = await running;
      if (drain) expect(results.every((result) => result.status === "fulfilled")).toBe(true);
      else
        for (const result of results)
          expect((result as PromiseRejectedResult).reason).toBeInstanceOf(RequestCancelledError);
      expect(() => twin.stream("late")).toThrow(DisposedError);
    }
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(8);
  }, 60_000);

  test("a second host process beside this one", async () => {
    const host = new Host(options, [{ do: "load" }, { do: "generate" }, { do: "dispose" }]);
    expect(await host.ended).toEqual({ code: 0, signal: null });
    expect(host.reports.filter(({ error }) => error !== undefined)).toEqual([]);
    // The other's start sweeps what dead processes left; this one is alive.
    expect((await model.generate("Hello", greedy)).usage.completionTokens).toBe(8);
    expect(statSync(directory).isDirectory()).toBe(true);
  }, 120_000);

  test("an aborted load of another model: its child is gone at once, the name is free", async () => {
    const controller = new AbortController();
    const children = () => model.server.children.filter(({ model: name }) => name === "aborted");
    const load = VllmModel.load({ engine: tinyEngine, model: "aborted", signal: controller.signal });
    await until(() => children().some(({ instance }) => instance === "aborted_0_0"), 60_000);
    controller.abort();
    const began = performance.now();
    await expect(load).rejects.toMatchObject({ code: "ERR_REQUEST_CANCELLED" });
    await until(() => children().length === 0, 2_000);
    expect(performance.now() - began).toBeLessThan(3_000);
  }, 90_000);
});
