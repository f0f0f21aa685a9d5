import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { checkEngine } from "../../src/model/engine-check";
import { vllmVersion } from "../../src/model/generated/argument-kinds";
import { writeRepository } from "../support/models";
import { adapter, fixtures } from "../support/paths";

const folder = mkdtempSync(join(tmpdir(), "tritonode engine-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const model = fixtures.models.tiny;

function check(engine: object, version = vllmVersion, environment: Record<string, string> = {}): void {
  checkEngine({ engine: { model, ...engine }, environment }, version);
}

test("an unknown name is refused, with the nearest and the way around", () => {
  expect(() => check({ max_modle_len: 512 })).toThrow(
    expect.objectContaining({
      code: "ERR_INVALID_ARGUMENT",
      message: `vLLM ${vllmVersion} has no engine argument 'max_modle_len' (did you mean 'max_model_len'?)`,
      hint: expect.stringContaining("TRITONODE_ALLOW_ARGUMENTS=1"),
    }),
  );
  expect(() => check({ toString: 1 })).toThrow(/no engine argument 'toString'/);
  // Whatever vLLM it is, vLLM itself checks again.
  check({ an_argument_of_tomorrow: 1 }, vllmVersion, { TRITONODE_ALLOW_ARGUMENTS: "1" });
  check({ an_argument_of_tomorrow: 1 }, "0.99.0");
});

test.each([
  [{ max_model_len: "much" }, `'max_model_len' must be a whole number or null, got "much"`],
  [{ max_model_len: 1.5 }, "'max_model_len' must be a whole number or null, got number 1.5"],
  [{ dtype: "flaot32" }, `'dtype' must be one of auto, half, float16, bfloat16, float, float32, got "flaot32"`],
  [{ max_lora_rank: 7 }, "'max_lora_rank' must be one of 1, 8, 16, 32, 64, 128, 256, 320, 512, got number 7"],
  [{ enforce_eager: "maybe" }, `'enforce_eager' must be true or false, got "maybe"`],
  [{ gpu_memory_utilization: "0,9" }, `'gpu_memory_utilization' must be a number, got "0,9"`],
  [{ tokenizer: 3 }, "'tokenizer' must be a string or null, got number 3"],
  [{ default_chat_template_kwargs: [] }, "'default_chat_template_kwargs' must be an object or null, got an array"],
])("%j is refused", (engine, message) => {
  expect(() => check(engine)).toThrow(`the engine argument ${message}`);
});

test("an adapter's folder that does not exist names the nearest", () => {
  const path = adapter("lora_a");
  checkEngine({ engine: { model }, loras: { a: path } }, vllmVersion);
  const misspelt = path.replace(/lora_a$/, "loar_a");
  expect(() => checkEngine({ engine: { model }, loras: { a: misspelt } }, vllmVersion)).toThrow(
    expect.objectContaining({
      code: "ERR_ADAPTER_LOAD",
      message: `adapter 'a': there is no folder ${misspelt} (did you mean 'lora_a'?)`,
    }),
  );
});

test("what vLLM's backend reads is not refused: strings as in Triton's own files, and arguments of earlier versions", () => {
  check({
    enforce_eager: "true",
    gpu_memory_utilization: "0.5",
    max_model_len: " 512 ",
    max_lora_rank: "16",
    max_loras: undefined,
    disable_log_requests: true,
    hf_overrides: { anything: 1 },
    watch_multi_lora: true,
    chat_template: null,
  });
});

test("a repository's file is named; another backend checks its own file", () => {
  const modelRepository = writeRepository(folder, { model: { model, dtpye: "float32" } });
  const path = join(modelRepository, "vllm_model/1/model.json");
  expect(() => checkEngine({ modelRepository }, vllmVersion)).toThrow(
    `${path}: vLLM ${vllmVersion} has no engine argu`,
  );
  checkEngine({ modelRepository, backend: "/opt/tritonserver/backends/vllm" }, vllmVersion);
  const missing = join(folder, "loras/sql");
  writeRepository(folder, { model: { model, enable_lora: "true" }, loras: { sql: missing } });
  expect(() => checkEngine({ modelRepository }, vllmVersion)).toThrow(
    expect.objectContaining({ code: "ERR_ADAPTER_LOAD", message: `adapter 'sql': there is no folder ${missing}` }),
  );
  expect(() => checkEngine({ modelRepository: model }, vllmVersion)).toThrow(
    expect.objectContaining({ hint: `it is a model's own folder: VllmModel.load({ engine: { model: "${model}" } })` }),
  );
  writeRepository(folder, { model: { dtype: "float32" } });
  expect(() => checkEngine({ modelRepository }, vllmVersion)).toThrow(
    `${path}: the engine argument 'model' must be the folder of the base model, or a GGUF file, got undefined`,
  );
});
