import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type ModelLoadError, MultiLoraMissingError, VllmModel } from "../../src";
import { temporaryFolder } from "../support/folders";
import { ask, keepLog, textOf, tinyEngine, writeRepository } from "../support/models";
import { adapter, fixtures } from "../support/paths";
import { isVllmSince } from "../support/versions";

// What model.json, multi_lora.json and config.pbtxt may say. A failed load costs an import of vLLM, so the cases that can
// share one are kept together.

const folder = temporaryFolder();
let count = 0;

function repository(files: Parameters<typeof writeRepository>[1]): string {
  const path = join(folder, `repository ${count++}`);
  mkdirSync(path);
  return writeRepository(path, files);
}

/** Loads, expects a failure, and gives it back. */
async function failure(files: Parameters<typeof writeRepository>[1]): Promise<ModelLoadError> {
  const log = keepLog();
  try {
    await using model = await VllmModel.load({ modelRepository: repository(files), logger: log });
    throw new Error(`the load of ${model.name} should have failed`);
  } catch (error) {
    return error as ModelLoadError;
  }
}

const enabled = { ...tinyEngine, enable_lora: "true", max_lora_rank: 16 };

/** Arguments are checked against those of the default runtime's vLLM; another version's are checked in the child. */
const checksBefore = isVllmSince(32);

describe("files that are refused", () => {
  test("LoRA on without multi_lora.json: the tutorial's FileNotFoundError", async () => {
    const error = await failure({ model: enabled });
    expect(error).toBeInstanceOf(MultiLoraMissingError);
    expect(error.code).toBe("ERR_MULTI_LORA_MISSING");
    expect(error.message).toMatch(/^Triton backend cannot find .*\/vllm_model\/1\/multi_lora\.json\.$/);
    expect((error.cause as Error).message).toContain("FileNotFoundError: Triton backend cannot find");
  });

  test("an engine argument that vLLM does not know: seen before a child starts, or by the child", async () => {
    const modelRepository = repository({ model: { ...tinyEngine, max_modle_len: 128 } });
    if (checksBefore) {
      await expect(VllmModel.load({ modelRepository })).rejects.toMatchObject({
        code: "ERR_INVALID_ARGUMENT",
        message: expect.stringMatching(/model\.json: vLLM .* 'max_modle_len' \(did you mean 'max_model_len'\?\)$/),
      });
    }
    const unchecked = VllmModel.load({ modelRepository, environment: { TRITONODE_ALLOW_ARGUMENTS: "1" } });
    await expect(unchecked).rejects.toMatchObject({
      code: "ERR_MODEL_LOAD",
      message: expect.stringContaining("vLLM knows no engine argument 'max_modle_len' (did you mean 'max_model_len'?)"),
    });
  });

  test("a value of the wrong type, and a base model that is not there", async () => {
    const error = await failure({ model: { ...tinyEngine, max_num_seqs: "lots" } });
    expect(error.message).toContain(
      checksBefore
        ? `'max_num_seqs' must be a whole number or null, got "lots"`
        : "engine argument 'max_num_seqs': expected a whole number, got 'lots'",
    );
    for (const model of ["/nowhere/llama", "nobody/llama"]) {
      expect(await failure({ model: { ...tinyEngine, model } })).toMatchObject({ code: "ERR_MODEL_NOT_FOUND", model });
    }
  });

  test("what vLLM refuses comes with its reason and one thing to try", async () => {
    // With hf_overrides the model's length is not checked before the child starts.
    const long = await failure({ model: { ...tinyEngine, max_model_len: 999_999, hf_overrides: {} } });
    expect(long.message).toMatch(
      /^the model 'vllm_model' could not be loaded: User-specified max_model_len \(999999\)/,
    );
    expect(long.message).not.toMatch(/pydantic|type=value_error/);
    expect(long.hint).toContain("leave max_model_len out");
    expect(long.docs).toMatch(/docs\/errors\.md#err_model_load$/);
  });

  test("several instances: adapters and cancellations could not reach all of them", async () => {
    const error = await failure({
      model: tinyEngine,
      config: 'backend: "vllm"\ninstance_group [ { count: 2, kind: KIND_MODEL } ]\n',
    });
    expect(error.message).toContain("config.pbtxt asks for 2 instances of the model");
    expect(error.message).toContain("set `count: 1` in the instance_group");
  });

  test("KIND_GPU for a model over several devices", async () => {
    const error = await failure({
      model: { ...tinyEngine, tensor_parallel_size: 2 },
      config: 'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_GPU, gpus: [ 0 ] } ]\n',
    });
    // Without a GPU Triton itself refuses the instance group before the backend is asked.
    expect(error.message).toMatch(/KIND_GPU is currently for single-GPU models|GPU/);
  });

  test("model.json that is no JSON object is seen before a child starts", async () => {
    for (const model of ["{ not json", "[1]"]) {
      await expect(VllmModel.load({ modelRepository: repository({ model }) })).rejects.toMatchObject({
        code: "ERR_INVALID_ARGUMENT",
        message: expect.stringContaining("model.json is not valid JSON"),
      });
    }
  });
});

describe("adapters that are refused at start, by name and reason", () => {
  const reasons: Record<string, RegExp> = {
    missing_tensors: /holds no adapter_model\.safetensors/,
    pickle_only: /pickle weights .* can run code/,
    bad_rank: /rank 64 is greater than max_lora_rank 16/,
  };

  test.each(Object.entries(reasons))("%s", async (name, reason) => {
    const path = fixtures.broken[name]?.path;
    expect(path, `test/fixtures makes a broken adapter '${name}'`).toBeDefined();
    const error = await failure({ model: enabled, loras: { good: adapter("lora_a"), culprit: path as string } });
    expect(error.message).toContain("adapter 'culprit'");
    expect(error.message).toMatch(reason);
  });

  test("a folder that does not exist", async () => {
    const error = await failure({ model: enabled, loras: { culprit: "/nowhere/lora" } });
    expect(error).toMatchObject({
      code: "ERR_ADAPTER_LOAD",
      message: "adapter 'culprit': there is no folder /nowhere/lora",
    });
  });
});

describe("enable_lora as it is found in the wild", () => {
  const greedy = { temperature: 0, max_tokens: 8 };

  test.each([true, "true", "True"])("%j turns it on", async (enable_lora) => {
    await using model = await VllmModel.load({
      modelRepository: repository({ model: { ...enabled, enable_lora }, loras: { doll: adapter("lora_a") } }),
    });
    const base = textOf(await ask(model, { text: "Hello", sampling: greedy }));
    const doll = textOf(await ask(model, { text: "Hello", sampling: { ...greedy, lora_name: "doll" } }));
    expect(doll).not.toBe(base);
    await expect(ask(model, { text: "Hello", sampling: { ...greedy, lora_name: "bavarian" } })).rejects.toThrow(
      "LoRA bavarian is not supported, we currently support ['doll']",
    );
  });

  test.each([false, "false"])("%j turns it off", async (enable_lora) => {
    await using model = await VllmModel.load({
      modelRepository: repository({ model: { ...enabled, enable_lora }, loras: { doll: adapter("lora_a") } }),
    });
    await expect(ask(model, { text: "Hello", sampling: { ...greedy, lora_name: "doll" } })).rejects.toThrow(
      /^LoRA feature is not enabled\.$/,
    );
    await expect(model.generate("Hello", { lora: "doll" })).rejects.toMatchObject({ code: "ERR_LORA_DISABLED" });
    // It goes on serving.
    expect(textOf(await ask(model, { text: "Hello", sampling: greedy }))).not.toBe("");
  });
});
