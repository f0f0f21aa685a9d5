import { channel, subscribe, unsubscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type AdapterEvent, type LogEvent, type RequestDiagnostics, type RestartEvent, VllmModel } from "../../src";
import { instrument } from "../../src/opentelemetry";
import { temporaryFolder } from "../support/folders";
import { tinyEngine, writeRepository } from "../support/models";
import { adapter } from "../support/paths";

// Events, diagnostics channels, metrics and OpenTelemetry, with one engine, which is killed last.

// biome-ignore lint/suspicious/noExplicitAny: JavaScript without types
let sdk: any;
let model: VllmModel;
const logged: LogEvent[] = [];
beforeAll(async () => {
  sdk = (await import(join(__dirname, "../support/open-telemetry.mjs"))).startSdk();
  const stop = instrument({ tracerProvider: sdk.tracerProvider, meterProvider: sdk.meterProvider });
  const modelRepository = writeRepository(temporaryFolder(), {
    model: { ...tinyEngine, enable_lora: "true" },
    loras: { lora_a: adapter("lora_a") },
    config:
      'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n' +
      'parameters: { key: "REPORT_CUSTOM_METRICS" value: { string_value: "true" } }\n',
  });
  model = await VllmModel.load({ modelRepository, restart: { policy: "on-failure", delay: 10 } });
  model.on("log", (line) => logged.push(line));
  stop();
});
afterAll(async () => {
  await model?.dispose();
  await sdk?.stop();
});

const greedy = { temperature: 0, max_tokens: 8 } as const;
const messages = [{ role: "user", content: "Hi" }];

/** What the channels publish while `run` runs. */
async function published(run: () => Promise<unknown>): Promise<[string, RequestDiagnostics][]> {
  const seen: [string, RequestDiagnostics][] = [];
  const names = ["start", "first-token", "end", "error"];
  const listeners = names.map((name) => (message: unknown) => void seen.push([name, message as RequestDiagnostics]));
  for (const [at, name] of names.entries()) subscribe(`tritonode:request:${name}`, listeners[at] as () => void);
  try {
    await run();
  } finally {
    for (const [at, name] of names.entries()) unsubscribe(`tritonode:request:${name}`, listeners[at] as () => void);
  }
  return seen;
}

test("channels: one object from a request's start to its end, and none without a listener", async () => {
  expect(channel("tritonode:request:start").hasSubscribers).toBe(false);
  const whole = await published(() => model.generate("Hello", { ...greedy, lora: "lora_a" }));
  expect(whole.map(([name]) => name)).toEqual(["start", "end"]);
  expect(whole[0]?.[1]).toBe(whole[1]?.[1]);
  expect(whole[1]?.[1]).toMatchObject({
    model: model.name,
    operation: "generate",
    adapter: "lora_a",
    streaming: false,
    parameters: greedy,
    usage: { completionTokens: 8 },
    finishReasons: ["length"],
    duration: expect.any(Number),
  });
  const streamed = await published(async () => {
    for await (const _ of model.stream("Hello", greedy));
  });
  expect(streamed.map(([name]) => name)).toEqual(["start", "first-token", "end"]);
  const [, last] = streamed.at(-1) ?? [];
  expect(last?.timeToFirstToken).toBeLessThanOrEqual(last?.duration ?? 0);
  const chats = await published(async () => {
    await model.chat(messages, greedy);
    await model.chatStream(messages, greedy).final();
  });
  expect(chats.map(([name, { streaming }]) => `${name} ${streaming}`)).toEqual([
    "start false",
    "end false",
    "start true",
    "first-token true",
    "end true",
  ]);
  expect(chats.at(-1)?.[1]).toMatchObject({
    operation: "chat",
    usage: { completionTokens: 8 },
    finishReasons: ["length"],
  });
});

test("channels: errors and cancellations are errors, with their reason", async () => {
  const failed = await published(() => model.generate("Hello", { lora: "lora_x" }).catch(() => {}));
  expect(failed.map(([name]) => name)).toEqual(["start", "error"]);
  expect(failed[1]?.[1]).toMatchObject({ adapter: "lora_x", error: { code: "ERR_ADAPTER_NOT_FOUND" } });
  const left = await published(async () => {
    for await (const _ of model.stream("Hello", { ...greedy, max_tokens: 400, ignore_eos: true })) break;
  });
  expect(left.at(-1)).toMatchObject(["error", { error: { code: "ERR_REQUEST_CANCELLED" } }]);
  const fetched = await published(() => model.fetch("models"));
  expect(fetched.at(-1)).toMatchObject([
    "end",
    { operation: "fetch", status: 200, parameters: { method: "GET", path: "/v1/models" } },
  ]);
});

test("OpenTelemetry: a span of each request under the caller's own, and the metrics", async () => {
  const load = sdk.spans().find(({ name }: { name: string }) => name === `load ${model.name}`);
  expect(load.ended).toBe(true);
  const stop = instrument({ tracerProvider: sdk.tracerProvider, meterProvider: sdk.meterProvider });
  await sdk.within("caller", async () => {
    await model.stream("Hello", { ...greedy, lora: "lora_a" }).final();
    await model.chat(messages, { ...greedy, lora: "lora_x" }).catch(() => {});
  });
  stop();
  await model.generate("nobody listens any more", greedy);
  const spans = new Map<string, Record<string, never>>(sdk.spans().map((span: { name: string }) => [span.name, span]));
  const caller = spans.get("caller") as unknown as { spanContext(): { spanId: string } };
  expect(spans.get("text_completion lora_a")).toMatchObject({
    parentSpanContext: { spanId: caller.spanContext().spanId },
    attributes: {
      "gen_ai.operation.name": "text_completion",
      "gen_ai.provider.name": "tritonode",
      "gen_ai.request.model": "lora_a",
      "gen_ai.request.max_tokens": 8,
      "gen_ai.usage.output_tokens": 8,
      "gen_ai.response.finish_reasons": ["length"],
      "tritonode.streaming": true,
    },
    events: [{ name: "first token" }],
  });
  expect(spans.get("chat lora_x")).toMatchObject({
    status: { code: 2 },
    attributes: { "error.type": "ERR_ADAPTER_NOT_FOUND" },
  });
  const metrics = await sdk.metrics();
  type Point = { attributes: Record<string, string>; value: { count: number; sum: number } };
  const output = metrics["gen_ai.client.token.usage"].find(
    ({ attributes }: Point) => attributes["gen_ai.token.type"] === "output",
  );
  expect(output.value).toMatchObject({ count: 1, sum: 8 });
  expect(metrics["gen_ai.client.operation.duration"]).toHaveLength(2);
  expect(metrics["gen_ai.server.time_to_first_token"][0].value.count).toBe(1);
  for (const { value } of metrics["tritonode.requests.active"]) expect(value).toBe(0);
  expect(() => instrument({ tracerProvidr: 1 } as object)).toThrow(/did you mean 'tracerProvider'/);
});

test("metrics: typed, of this model", async () => {
  await model.generate("Hello", { ...greedy, lora: "lora_a" });
  await expect.poll(async () => (await model.metrics()).adapters["lora_a"]?.requests).toBeGreaterThan(1);
  const { requests, vllm, adapters, seconds, families, text } = await model.metrics();
  expect(requests.succeeded).toBeGreaterThan(3);
  expect(seconds.total).toBeGreaterThan(0);
  expect(vllm?.generationTokens).toBeGreaterThan(8);
  expect(vllm?.timeToFirstToken.count).toBeGreaterThan(3);
  expect(vllm?.timeToFirstToken.buckets.at(-1)).toEqual({
    upTo: Number.POSITIVE_INFINITY,
    count: vllm?.timeToFirstToken.count,
  });
  expect(adapters["lora_a"]?.latency.mean).toBeGreaterThan(0);
  expect(families.length).toBeGreaterThan(10);
  expect(text).toBe((await model.metrics()).text.length > 0 ? text : "");
});

test("adapter events: whoever changes them", async () => {
  const seen: AdapterEvent[] = [];
  const channelled: unknown[] = [];
  const onMessage = (message: unknown) => void channelled.push(message);
  subscribe("tritonode:adapter", onMessage);
  const listener = (event: AdapterEvent) => void seen.push(event);
  model.on("adapter", listener);
  await model.adapters.load("other", adapter("lora_b"));
  await model.generate("Hello", { ...greedy, lora: { name: "other", scale: 0.5 } });
  await model.fetch("load_lora_adapter", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ lora_name: "third", lora_path: adapter("lora_c") }),
  });
  await model.adapters.unload("other");
  await expect.poll(() => seen.length).toBeGreaterThan(3);
  model.off("adapter", listener);
  unsubscribe("tritonode:adapter", onMessage);
  expect(seen.map(({ action, name }) => `${action} ${name}`).slice(0, 2)).toEqual(["load other", "load other*0.5"]);
  expect(seen.map(({ action, name }) => `${action} ${name}`)).toContain("unload other");
  expect(seen[0]).toMatchObject({ version: 1, scale: 1, path: adapter("lora_b") });
  expect(channelled[0]).toMatchObject({ model: model.name, action: "load", name: "other" });
});

test("restart events, and the log's", async () => {
  const restarts: RestartEvent[] = [];
  model.on("restart", (event) => restarts.push(event));
  const next = once(model as never, "restart");
  process.kill((await model.info()).pid, "SIGKILL");
  expect((await next)[0]).toMatchObject({ phase: "died", attempt: 1 });
  await expect.poll(() => restarts.at(-1)?.phase, { timeout: 120_000 }).toBe("ready");
  expect(restarts.map(({ phase }) => phase)).toEqual(["died", "loading", "ready"]);
  expect((await model.generate("Hello", { ...greedy, lora: "third" })).text).not.toBe("");
  expect(logged.length).toBeGreaterThan(0);
  expect(logged.every(({ level }) => ["debug", "info", "warn", "error"].includes(level))).toBe(true);
});
