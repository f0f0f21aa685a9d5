import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { findAdapters, findModel } from "../../src/cli/model-source";
import type { InvalidArgumentError } from "../../src/errors";
import { temporary } from "./runtime-files";

const folder = temporary();
function write(...names: string[]): string {
  const path = join(folder, ...names);
  mkdirSync(join(path, ".."), { recursive: true });
  writeFileSync(path, "{}");
  return path;
}
const model = join(write("my model", "config.json"), "..");
const gguf = write("files", "small.gguf");
const version = join(write("repository", "vllm_model", "1", "model.json"), "..");
const adapter = join(write("loras", "pirate", "adapter_config.json"), "..");

function refusal(action: () => unknown): InvalidArgumentError {
  try {
    action();
  } catch (error) {
    return error as InvalidArgumentError;
  }
  return expect.unreachable("it was taken");
}

describe("findModel", () => {
  it("knows folders, files and repositories", () => {
    expect(findModel(model)).toEqual({ kind: "folder", path: model });
    expect(findModel(`${model}/`)).toEqual({ kind: "folder", path: model });
    expect(findModel(gguf)).toEqual({ kind: "gguf", path: gguf });
    expect(findModel(join(gguf, ".."))).toEqual({ kind: "gguf", path: gguf });
    const repository = join(folder, "repository");
    expect(findModel(repository)).toEqual({ kind: "repository", repository, name: undefined });
    const named = { kind: "repository", repository, name: "vllm_model" };
    expect(findModel(join(repository, "vllm_model"))).toEqual(named);
    expect(findModel(version)).toEqual(named);
  });

  it("says what else is there", () => {
    expect(refusal(() => findModel(undefined)).message).toBe(
      `MODEL is missing, and there is no ${join(process.cwd(), "model_repository")}`,
    );
    const misspelt = refusal(() => findModel(join(folder, "my modle")));
    expect(misspelt).toMatchObject({ code: "ERR_MODEL_NOT_FOUND", hint: `there is ${model}` });
    expect(misspelt.message).toMatch(/my modle \(did you mean 'my model'\?\)$/);
    expect(refusal(() => findModel("Org/Model-1B", {})).hint).toContain(
      "hf download Org/Model-1B --local-dir Model-1B",
    );
    expect(refusal(() => findModel(adapter)).hint).toContain(`--lora pirate=${adapter}`);
    expect(refusal(() => findModel(join(model, "config.json"))).hint).toBe(`the model is the folder: ${model}`);
    expect(refusal(() => findModel(folder)).message).toContain("holds no model");
    write("several", "a.gguf");
    write("several", "b.gguf");
    expect(refusal(() => findModel(join(folder, "several"))).hint).toBe("name one of them: a.gguf, b.gguf");
  });
});

it("finds a model of the Hugging Face cache by its name on the hub", () => {
  const cache = join(folder, "hub/models--Org--Model-1B");
  const config = write("hub/models--Org--Model-1B/snapshots/abc/config.json");
  const environment = { HF_HUB_CACHE: join(folder, "hub") };
  const found = { kind: "folder", path: join(config, "..") };
  expect(findModel("Org/Model-1B", environment)).toEqual(found);
  write("hub/models--Org--Model-1B/snapshots/older/config.json");
  expect(refusal(() => findModel("Org/Model-1B", environment)).code).toBe("ERR_MODEL_NOT_FOUND");
  mkdirSync(join(cache, "refs"));
  writeFileSync(join(cache, "refs/main"), "abc");
  expect(findModel("Org/Model-1B", environment)).toEqual(found);
  expect(refusal(() => findModel("Org/Other", environment)).message).toContain(`cache ${environment.HF_HUB_CACHE}`);
});

describe("findAdapters", () => {
  const plain = findModel(model);

  it("takes a name and a folder, a folder, or a name that a repository serves", () => {
    expect(findAdapters([`a=${adapter}`, adapter], plain)).toEqual([
      { name: "a", path: adapter },
      { name: "pirate", path: adapter },
    ]);
    expect(findAdapters(["alpaca"], findModel(version))).toEqual([{ name: "alpaca", path: undefined }]);
  });

  it("refuses what is none, and two of one name", () => {
    expect(refusal(() => findAdapters(["alpaca"], plain)).message).toContain("neither NAME=PATH nor the folder");
    expect(refusal(() => findAdapters(["a=/no/folder"], plain)).message).toContain("there is no folder /no/folder");
    expect(refusal(() => findAdapters(["a="], plain)).message).toContain("there is no folder");
    expect(refusal(() => findAdapters([adapter, adapter], plain)).message).toBe('--lora names two adapters "pirate"');
  });
});
