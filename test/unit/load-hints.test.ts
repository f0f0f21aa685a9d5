import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { loadHint, plainReason } from "../../src/model/load-hints";
import { checkModelFolder } from "../../src/model/model-folder";
import { fixtures } from "../support/paths";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "tritonode folder-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** A copy of the tiny model that `change` has damaged. */
function damaged(change: (path: string) => void): string {
  const path = join(folder, "llama");
  cpSync(fixtures.models.tiny, path, { recursive: true });
  change(path);
  return path;
}

test.each<[string, (path: string) => void, RegExp, RegExp]>([
  ["no config.json", (path) => rmSync(join(path, "config.json")), /has no config\.json/, /whole folder/],
  [
    "a configuration that is no JSON",
    (path) => writeFileSync(join(path, "config.json"), "{ nonsense"),
    /config\.json is not valid JSON/,
    /again/,
  ],
  [
    "a configuration that is no object",
    (path) => writeFileSync(join(path, "config.json"), "null"),
    /config\.json is not valid JSON: not a JSON object/,
    /again/,
  ],
  [
    "an index of weights that is no JSON",
    (path) => writeFileSync(join(path, "model.safetensors.index.json"), "{ nonsense"),
    /index\.json is not valid JSON/,
    /again/,
  ],
  [
    "an index of weights that is a Git LFS pointer",
    (path) => writeFileSync(join(path, "model.safetensors.index.json"), "version https://git-lfs.github.com/spec/v1\n"),
    /index\.json is not valid JSON/,
    /git lfs pull/,
  ],
  ["no weights", (path) => rmSync(join(path, "model.safetensors")), /has no weights/, /Git LFS/],
  [
    "weights that were cut short",
    (path) => truncateSync(join(path, "model.safetensors"), 1_000_000),
    /model\.safetensors are damaged: it has 1000000 bytes, and its header speaks of \d{8}/,
    /checksum/,
  ],
  [
    "weights that are something else",
    (path) => writeFileSync(join(path, "model.safetensors"), "garbage, and no safetensors file"),
    /are damaged: it has 32 bytes and no header that fits/,
    /checksum/,
  ],
  [
    "a Git LFS pointer",
    (path) => writeFileSync(join(path, "model.safetensors"), "version https://git-lfs.github.com/spec/v1\n"),
    /are damaged/,
    /git lfs pull/,
  ],
  [
    "a shard that is missing",
    (path) =>
      writeFileSync(
        join(path, "model.safetensors.index.json"),
        JSON.stringify({ weight_map: { a: "model.safetensors", b: "model-2.safetensors" } }),
      ),
    /lacks 1 of its files, model-2\.safetensors first/,
    /index\.json names them/,
  ],
  [
    "a folder around the model's",
    (path) => {
      mkdirSync(join(path, "inner"));
      cpSync(join(path, "config.json"), join(path, "inner/config.json"));
      rmSync(join(path, "config.json"));
    },
    /has no config\.json/,
    /did you mean .*inner/,
  ],
  [
    "an adapter",
    (path) => {
      rmSync(join(path, "config.json"));
      writeFileSync(join(path, "adapter_config.json"), "{}");
    },
    /has no config\.json/,
    /it is an adapter/,
  ],
])("%s is refused before a child is started", (_, change, message, hint) => {
  const model = damaged(change);
  expect(() => checkModelFolder({ model })).toThrow(
    expect.objectContaining({
      code: "ERR_INVALID_ARGUMENT",
      message: expect.stringMatching(message),
      hint: expect.stringMatching(hint),
    }),
  );
});

test("a model that does not exist: the nearest name beside it, or how to download it", () => {
  const model = damaged(() => {});
  expect(() => checkModelFolder({ model })).not.toThrow();
  expect(() => checkModelFolder({ model: join(folder, "lama") })).toThrow(
    expect.objectContaining({
      code: "ERR_MODEL_NOT_FOUND",
      model: join(folder, "lama"),
      message: `there is no model ${join(folder, "lama")} (did you mean 'llama'?)`,
    }),
  );
  expect(() => checkModelFolder({ model: "~/llama" })).toThrow(
    expect.objectContaining({ code: "ERR_MODEL_NOT_FOUND", hint: expect.stringContaining("only a shell replaces ~") }),
  );
  expect(() => checkModelFolder({ model: join(model, "config.json") })).toThrow(/is a file, but not a \.gguf file/);
  const environment = { HF_HOME: folder };
  expect(() => checkModelFolder({ model: "somebody/llama-1B" }, environment)).toThrow(
    expect.objectContaining({
      code: "ERR_MODEL_NOT_FOUND",
      message: expect.stringContaining(`none of this name in the Hugging Face cache ${join(folder, "hub")}`),
      hint: expect.stringContaining("hf download somebody/llama-1B --local-dir llama-1B"),
    }),
  );
  // Where the user lets vLLM download, or has the model in the cache, its name is enough.
  checkModelFolder({ model: "somebody/llama-1B" }, { ...environment, HF_HUB_OFFLINE: "0" });
  cpSync(model, join(folder, "hub/models--somebody--llama-1B/snapshots/abc"), { recursive: true });
  checkModelFolder({ model: "somebody/llama-1B" }, environment);
  expect(() =>
    checkModelFolder({ model: damaged((path) => rmSync(join(path, "model.safetensors"))), load_format: "dummy" }),
  ).not.toThrow();
});

test("a context longer than the model's own, where its configuration is plain", () => {
  const config = (change: object) => {
    const model = damaged(() => {});
    const file = join(model, "config.json");
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), ...change }));
    return model;
  };
  const model = config({ max_position_embeddings: 1024 });
  for (const max_model_len of [1024, -1, null, "1024", undefined]) checkModelFolder({ model, max_model_len });
  expect(() => checkModelFolder({ model, max_model_len: "1025" })).toThrow(
    expect.objectContaining({
      message: expect.stringContaining("max_model_len is 1025, and the model was made for 1024 tokens"),
      hint: "leave max_model_len out, or lower it to 1024",
    }),
  );
  checkModelFolder({ model, max_model_len: 1025, hf_overrides: { max_position_embeddings: 4096 } });
  checkModelFolder({ model, max_model_len: 1025 }, { VLLM_ALLOW_LONG_MAX_MODEL_LEN: "1" });
  checkModelFolder({ model: config({ rope_scaling: { factor: 8 } }), max_model_len: 4096 });
});

// The reasons as vLLM 0.32 gave them.
test.each([
  ["Repo id must be in the form 'repo_name' or 'namespace/repo_name': './x'.", /give the path/],
  [
    "User-specified max_model_len (9) is greater than the derived max_model_len (max_position_embeddings=2)",
    /max_model_len/,
  ],
  ["No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", /raise kv_cache_memory_bytes/],
  [
    "Available memory on node 0 (1/2 GiB) on kv cache allocation is less than requested memory for kv",
    /lower kv_cache/,
  ],
  ["model.json: engine argument 'dtype': expected one of ['auto'], got 'float31'", /"bfloat16"/],
  ["model.json: engine argument 'max_lora_rank': expected one of [1, 8], got 7", /largest rank/],
  ["model.json: vLLM knows no engine argument 'max_modellen'", /correct it/],
  ["Model architectures ['FooForCausalLM'] are not supported for now.", /no such architecture/],
  [
    "The checkpoint has model type `foo` but Transformers does not recognize this architecture.",
    /no such architecture/,
  ],
  ["Error while deserializing header: header too large", /damaged/],
  ["start (0) + length (512) exceeds dimension size (256).", /different models/],
  ["Couldn't instantiate the backend tokenizer from one of:", /tokenizer\.json/],
  ["Total number of attention heads (2) must be divisible by tensor parallel size (3).", /tensor_parallel_size/],
  ["FP8 KV cache on CPU requires x86 with AVX-512 or AMX.", /leave kv_cache_dtype out/],
  ["Cannot find the config file for awq", /leave the engine argument quantization out/],
  ["adapter 'a' (/l/a): rank 600 is greater than max_lora_rank 512", /up to rank 512/],
  ["adapter 'a' (/l/a): rank 64 is greater than max_lora_rank 16", /set max_lora_rank/],
  [
    "adapter 'a' (/my loras/a): adapter_model.safetensors: the header says rank 16",
    /tritonode inspect '\/my loras\/a' --model MODEL/,
  ],
  ["something that nobody has seen yet", /the log says more: .*--verbose/],
])("%s", (reason, hint) => {
  expect(loadHint(reason)).toMatch(hint);
});

test("the reason is vLLM's own, without what pydantic puts around it", () => {
  const reason =
    "1 validation error for ModelConfig\n  Value error, Model architectures ['Foo'] are not supported for now. Supported " +
    "architectures: dict_keys(['A', 'B']) [type=value_error, input_value=ArgsKwargs(())]\n    For further information visit x";
  expect(plainReason(reason)).toBe("Model architectures ['Foo'] are not supported for now.");
  const link =
    "/tmp/tritonode-16748-7cdae4/repositories/11b0ebde16ba7460/vllm_model/1/model.json: engine argument 'dtype': x";
  expect(plainReason(link)).toBe("vllm_model/1/model.json: engine argument 'dtype': x");
  expect(plainReason("Cannot find any model weights")).toBe("Cannot find any model weights");
});
