import { cpSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AdapterLoadError, AdapterNotFoundError, VllmModel } from "../../src";
import { temporaryFolder } from "../support/folders";
import { loadTiny, tinyEngine, writeRepository } from "../support/models";
import { adapter, fixtures } from "../support/paths";

// Adapters while the model runs. Two slots and a host memory of three, so that eviction is part of every test.

const prompt = "Hello, my name is";
const greedy = { temperature: 0, max_tokens: 12, ignore_eos: true };
const folder = temporaryFolder();

let model: VllmModel;
beforeAll(async () => {
  model = await loadTiny({ max_loras: 2, max_cpu_loras: 3 }, { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") });
});
afterAll(() => model.dispose());

const text = async (lora?: string) => (await model.generate(prompt, { ...greedy, lora })).text;

test("load, list, get, serve, unload", async () => {
  await expect(text("fresh")).rejects.toThrow(AdapterNotFoundError);
  const base = await text();
  const info = await model.adapters.load("fresh", adapter("lora_c"));
  expect(info).toMatchObject({ name: "fresh", version: 1, rank: 8, targetModules: ["q_proj", "v_proj"], served: 0 });
  const fresh = await text("fresh");
  expect(fresh).not.toBe(base);
  expect((await model.adapters.list()).map(({ name }) => name)).toEqual(["lora_a", "lora_b", "fresh"]);
  expect(await model.adapters.get("fresh")).toMatchObject({ served: 1, running: 0, failed: 0, tokens: 12 });
  await model.adapters.unload("fresh");
  await expect(text("fresh")).rejects.toThrow(AdapterNotFoundError);
  await expect(model.adapters.get("fresh")).rejects.toThrow(AdapterNotFoundError);
});

test("a name in use is refused; replace serves the new weights at once, never the old prefix cache", async () => {
  await model.adapters.load("style", adapter("lora_c"));
  const before = await text("style");
  await expect(model.adapters.load("style", adapter("lora_d"))).rejects.toMatchObject({
    code: "ERR_TRITON_ALREADY_EXISTS",
  });
  // The same prompt twice: its prefix is cached now.
  expect(await text("style")).toBe(before);
  const info = await model.adapters.replace("style", adapter("lora_d"));
  expect(info.version).toBe(2);
  const after = await text("style");
  expect(after).not.toBe(before);
  await model.adapters.replace("style", adapter("lora_c"));
  expect(await text("style")).toBe(before);
  const nobody = model.adapters.replace("nobody", adapter("lora_c"));
  await expect(nobody).rejects.toMatchObject({ code: "ERR_ADAPTER_NOT_FOUND", name: "AdapterNotFoundError" });
  await model.adapters.unload("style");
});

test("a request that runs finishes with the version it started with", async () => {
  await model.adapters.load("slow", adapter("lora_e"));
  const options = { temperature: 0, max_tokens: 200, ignore_eos: true, lora: "slow" };
  const wanted = (await model.generate(prompt, options)).text;
  const stream = model.stream(prompt, options);
  let got = (await stream.next()).value.text;
  await model.adapters.replace("slow", adapter("lora_f"));
  const newer = (await model.generate(prompt, options)).text;
  for await (const chunk of stream) got += chunk.text;
  expect(got).toBe(wanted);
  expect(newer).not.toBe(wanted);
  // Unloaded while it runs: it finishes all the same.
  const last = model.stream(prompt, options);
  let tail = (await last.next()).value.text;
  await model.adapters.unload("slow");
  for await (const chunk of last) tail += chunk.text;
  expect(tail).toBe(newer);
});

test("more adapters than slots and than host memory holds: each still answers as alone, evicted and reloaded", async () => {
  const names = ["lora_a", "lora_b", "lora_c", "lora_d", "lora_e", "lora_f"];
  for (const name of names.slice(2)) await model.adapters.load(name, adapter(name));
  const alone = new Map<string, string>();
  for (const name of names) alone.set(name, await text(name));
  expect(new Set(alone.values()).size).toBe(names.length);
  const rows = Array.from({ length: 48 }, (_, at) => names[at % names.length] as string);
  const texts = await Promise.all(rows.map(text));
  for (const [at, name] of rows.entries()) expect(texts[at], name).toBe(alone.get(name));
  const states = (await model.adapters.list()).map(({ state }) => state);
  expect(states.filter((state) => state === "slot").length).toBeLessThanOrEqual(2);
  expect(states.filter((state) => state !== "disk").length).toBeLessThanOrEqual(3);
  expect(states).toContain("disk");
  for (const name of names.slice(2)) await model.adapters.unload(name);
});

test("a pinned adapter stays in memory while others come and go", async () => {
  expect(await model.adapters.pin("lora_a")).toMatchObject({ pinned: true });
  for (const name of ["lora_c", "lora_d", "lora_e"]) {
    await model.adapters.load(name, adapter(name));
    await text(name);
  }
  expect((await model.adapters.get("lora_a")).state).not.toBe("disk");
  // Host memory holds three, a batch needs two of them: one can be pinned.
  await expect(model.adapters.pin("lora_b")).rejects.toThrow(/1 can be, with max_cpu_loras 3 and max_loras 2/);
  await model.adapters.unpin("lora_a");
  for (const name of ["lora_c", "lora_d", "lora_e"]) {
    await text(name);
    await model.adapters.unload(name);
  }
  expect((await model.adapters.get("lora_a")).pinned).toBe(false);
});

test("pins that run at the same time share the room there is", async () => {
  const pinned = async () => (await model.adapters.list()).filter((info) => info.pinned);
  const names = ["lora_a", "lora_b"];
  const ends = await Promise.allSettled(names.map((name) => model.adapters.pin(name)));
  expect(ends.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  expect(await pinned()).toHaveLength(1);
  for (const { name } of await pinned()) await model.adapters.unpin(name);
  // The one that was refused holds no room.
  for (const name of names) {
    await model.adapters.pin(name);
    await model.adapters.unpin(name);
  }
});

test("straight from a request: { name, path }", async () => {
  const lora = { name: "inline", path: adapter("lora_g") };
  const answers = await Promise.all(Array.from({ length: 4 }, () => model.generate(prompt, { ...greedy, lora })));
  expect(new Set(answers.map((answer) => answer.text)).size).toBe(1);
  expect(await text("inline")).toBe(answers[0]?.text);
  await expect(model.generate(prompt, { lora: { name: "inline", path: adapter("lora_h") } })).rejects.toMatchObject({
    code: "ERR_TRITON_ALREADY_EXISTS",
  });
  await expect(model.generate(prompt, { lora: { name: "other", path: "/nowhere" } })).rejects.toThrow(AdapterLoadError);
  await model.adapters.unload("inline");
});

describe("bad adapters fail alone", () => {
  test("inspect says what a folder holds and why it would not load", async () => {
    expect(await model.adapters.inspect(adapter("lora_all"))).toMatchObject({ loadable: true, rank: 16, problems: [] });
    for (const [name, { path }] of Object.entries(fixtures.broken)) {
      const found = await model.adapters.inspect(path);
      expect(found.loadable, name).toBe(false);
      expect(found.problems[0], name).toBeTruthy();
    }
  });

  test("every broken adapter is refused by load, by name, and the model goes on", async () => {
    const before = await text("lora_a");
    for (const [name, { path }] of Object.entries(fixtures.broken)) {
      const failure = await model.adapters.load(name, path).catch((error) => error);
      expect(failure, name).toBeInstanceOf(AdapterLoadError);
      expect(failure.message).toContain(`adapter '${name}'`);
    }
    expect(await text("lora_a")).toBe(before);
  });

  test("files that vanish or change after they were checked fail their own requests, not the engine", async () => {
    const copy = join(folder, "vanishing");
    cpSync(adapter("lora_c"), copy, { recursive: true });
    await model.adapters.load("vanishing", copy);
    const wanted = await text("vanishing");
    renameSync(copy, `${copy}.away`);
    // Still in memory: it answers. Evicted: it cannot come back.
    expect(await text("vanishing")).toBe(wanted);
    const others = ["lora_d", "lora_e", "lora_f"];
    for (const name of others) await model.adapters.load(name, adapter(name));
    for (const name of others) await text(name);
    expect((await model.adapters.get("vanishing")).state).toBe("disk");
    await expect(text("vanishing")).rejects.toThrow(/have changed or gone/);
    expect(await text("lora_d")).not.toBe("");
    renameSync(`${copy}.away`, copy);
    expect(await text("vanishing")).toBe(wanted);
    for (const name of [...others, "vanishing"]) await model.adapters.unload(name);
  });
});

test("multi_lora.json is watched where model.json asks for it", async () => {
  const modelRepository = writeRepository(
    join(folder, "watched"),
    { model: { ...tinyEngine, enable_lora: true, watch_multi_lora: "true" }, loras: { one: adapter("lora_a") } },
    "watched_model",
  );
  await using other = await VllmModel.load({ modelRepository });
  const file = join(modelRepository, "watched_model/1/multi_lora.json");
  const names = async () => (await other.adapters.list()).map(({ name, version }) => `${name}@${version}`).sort();
  writeFileSync(file, JSON.stringify({ one: adapter("lora_b"), two: adapter("lora_c") }));
  await expect.poll(names, { timeout: 10_000 }).toEqual(["one@2", "two@1"]);
  writeFileSync(file, JSON.stringify({ two: adapter("lora_c"), bad: "/nowhere" }));
  await expect.poll(names, { timeout: 10_000 }).toEqual(["two@1"]);
});
