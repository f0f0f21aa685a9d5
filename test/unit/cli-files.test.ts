import { cpSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { loadedJson } from "../../src/cli/commands/info";
import { main } from "../../src/cli/main";
import { toModelInfo } from "../../src/model/info";
import { adapter } from "../support/paths";
import { context } from "./cli-context";
import { temporary } from "./runtime-files";

// What `inspect` and `info` say of files, and of a model that `info --load` has loaded.

async function inspect(...words: string[]) {
  const surroundings = context({ environment: process.env });
  const code = await main(["inspect", ...words], surroundings);
  return { code, text: surroundings.stdout.text };
}

describe("inspect of a folder that holds adapters", () => {
  function folderOf(...names: string[]): string {
    const folder = join(temporary(), "my loras");
    mkdirSync(folder);
    for (const name of names) cpSync(adapter("lora_a"), join(folder, name), { recursive: true });
    return folder;
  }

  it("names them and the command that inspects them", async () => {
    const folder = folderOf("pirate", "sql/second");
    const { code, text } = await inspect(folder);
    expect(code).toBe(1);
    expect(text).toContain(`FAIL  ${folder}\n`);
    expect(text).toContain(`hint: tritonode adapters '${folder}' inspects the adapters in it: pirate, sql/second\n`);
    const json = JSON.parse((await inspect(folder, "--json")).text);
    expect(json).toMatchObject({ path: folder, loadable: false, hint: expect.stringContaining("pirate, sql/second") });
  });

  it("counts them where there are many", async () => {
    const { text } = await inspect(folderOf("a", "b", "c", "d", "e"));
    expect(text).toContain("inspects the adapters in it: a, b, c, 2 more\n");
  });

  it("says nothing of an adapter, an empty folder and none", async () => {
    const { code, text } = await inspect(adapter("lora_a"), folderOf(), "/no/folder");
    expect(code).toBe(1);
    expect(text).not.toContain("hint");
  });
});

it("info --load --json has one kind of names", () => {
  const raw = {
    model: "/models/a",
    vllm_version: "0.32.0",
    pid: 7,
    load_seconds: 3.5,
    kv_cache: { tokens: 1024, bytes: null, max_model_len: 512 },
    requests: { running: 0, waiting: 1 },
    enable_lora: true,
    adapters: { loads: 3, evictions: 1, in_memory: 2 },
    engine_args: { max_model_len: 512 },
  };
  expect(loadedJson(toModelInfo(raw))).toEqual(raw);
  expect(loadedJson(toModelInfo({ ...raw, adapters: null }))).toEqual({ ...raw, adapters: null });
});
