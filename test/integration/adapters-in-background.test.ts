import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type AdapterEvent, AdapterLoadError, type VllmModel } from "../../src";
import { loadTiny } from "../support/models";
import { adapter, fixtures } from "../support/paths";

// `load_loras_in_background`: a model is ready before its adapters are.

const names = ["lora_a", "lora_b", "lora_c", "lora_d", "lora_e", "lora_f"];
const loras = Object.fromEntries(names.map((name) => [name, adapter(name)]));
const broken = fixtures.broken["not_finite"]?.path as string;
const greedy = { temperature: 0, max_tokens: 12, ignore_eos: true };
const text = async (model: VllmModel, lora?: string) => (await model.generate("Hello", { ...greedy, lora })).text;

const events: AdapterEvent[] = [];
const note = (event: unknown) => void events.push(event as AdapterEvent);
beforeAll(() => subscribe("tritonode:adapter", note));
afterAll(() => void unsubscribe("tritonode:adapter", note));

test("each adapter answers as after a load that waits for all, and one that cannot be read fails alone", async () => {
  const wanted = new Map<string | undefined, string>();
  {
    await using model = await loadTiny({ max_loras: 2, max_cpu_loras: 8 }, loras);
    for (const name of [undefined, ...names]) wanted.set(name, await text(model, name));
  }
  expect(new Set(wanted.values()).size).toBe(names.length + 1);
  events.length = 0;
  const engine = { max_loras: 2, max_cpu_loras: 8, load_loras_in_background: true };
  await using model = await loadTiny(engine, { broken, ...loras });
  // The last adapter first: it is not its turn yet.
  const asked = [...names].reverse().flatMap((name) => [name, undefined, name]);
  const failing = text(model, "broken");
  const aborted = model.generate("Hello", { lora: "lora_f", signal: AbortSignal.timeout(1) });
  await Promise.all([
    expect(failing).rejects.toThrow(AdapterLoadError),
    expect(failing).rejects.toThrow(/adapter 'broken'.*infinity or a NaN/),
    aborted.catch(() => {}),
    ...asked.map(async (name) => expect(await text(model, name), name).toBe(wanted.get(name))),
  ]);
  await expect.poll(() => events.length, { timeout: 10_000 }).toBe(names.length + 1);
  expect(events.filter(({ action }) => action === "load").map(({ name }) => name)).toEqual(names);
  expect(events.find(({ action }) => action === "fail")).toMatchObject({
    name: "broken",
    error: expect.stringContaining("infinity or a NaN"),
  });
  const states = (await model.adapters.list()).map(({ name, state }) => [name, state === "disk"]);
  expect(states).toEqual([["broken", true], ...names.map((name) => [name, false])]);
});

test("adapters can be unloaded and replaced before it is their turn", async () => {
  const model = await loadTiny({ max_loras: 2, max_cpu_loras: 8, load_loras_in_background: true }, loras);
  await Promise.all([
    model.adapters.unload("lora_f"),
    model.adapters.replace("lora_e", adapter("lora_a")),
    model.adapters.pin("lora_d"),
  ]);
  await expect(text(model, "lora_f")).rejects.toThrow(/lora_f/);
  expect(await text(model, "lora_e")).toBe(await text(model, "lora_a"));
  expect(await model.adapters.get("lora_d")).toMatchObject({ pinned: true });
  await model.dispose();
});

test("what the headers of an adapter show still fails the load", async () => {
  const bad = { ...loras, missing: "/nowhere" };
  await expect(loadTiny({ load_loras_in_background: true }, bad)).rejects.toThrow(/missing/);
});
