import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { VllmModel, type VllmModelOptions } from "../../src";
import { temporaryFolder } from "../support/folders";
import { ask, output, textOf, tinyEngine, writeRepository } from "../support/models";
import { root } from "../support/paths";
import { until } from "../support/triton";

// Beside other models, in an ensemble, loaded and unloaded, and with Triton's health check.

const sampling = { temperature: 0, max_tokens: 8, ignore_eos: true };

describe("beside other models", () => {
  const repository = temporaryFolder();
  let model: VllmModel;

  beforeAll(async () => {
    writeRepository(repository, { model: tinyEngine });
    // A plain Python model.
    mkdirSync(join(repository, "shout/1"), { recursive: true });
    writeFileSync(
      join(repository, "shout/config.pbtxt"),
      `backend: "python"
input [ { name: "IN" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "OUT" data_type: TYPE_STRING dims: [ -1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
`,
    );
    writeFileSync(
      join(repository, "shout/1/model.py"),
      `import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            loud = np.asarray([value.decode().upper().encode() for value in values.reshape(-1)], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", loud)]))
        return responses
`,
    );
    // An ensemble over the vLLM model, as upstream's test has it.
    mkdirSync(join(repository, "ensemble_model/1"), { recursive: true });
    writeFileSync(
      join(repository, "ensemble_model/config.pbtxt"),
      `name: "ensemble_model"
platform: "ensemble"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "text_input" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
ensemble_scheduling {
  step [ {
    model_name: "vllm_model"
    model_version: -1
    input_map { key: "text_input" value: "text_input" }
    output_map { key: "text_output" value: "text_output" }
  } ]
}
`,
    );
    model = await VllmModel.load({ modelRepository: repository, model: "vllm_model" });
  });
  afterAll(() => model.dispose());

  test("a Python model is served by the same server, and unloaded again", async () => {
    await model.server.loadModel("shout");
    const response = await model.server
      .infer({ model: "shout", inputs: [{ name: "IN", datatype: "BYTES", data: ["hello", "wörld"] }] })
      .response();
    expect(output(response, "OUT")).toEqual(["HELLO", "WÖRLD"]);
    expect(textOf(await ask(model, { text: "Hello", sampling }))).toContain("Hello");
    await model.server.unloadModel("shout");
    expect(await model.server.isModelReady("shout")).toBe(false);
    expect(await model.isReady()).toBe(true);
  });

  test("an ensemble over the vLLM model", async () => {
    await model.server.loadModel("ensemble_model");
    const stream = model.server.infer({
      model: "ensemble_model",
      inputs: [{ name: "text_input", datatype: "BYTES", data: ["The future is"] }],
    });
    let text = "";
    for await (const response of stream) text += output(response, "text_output")?.[0] ?? "";
    expect(text).toMatch(/^The future is/);
    await model.server.unloadModel("ensemble_model");
  });

  test("Triton's own view of it: metadata, configuration, statistics, index", async () => {
    const metadata = await model.server.modelMetadata("vllm_model");
    expect(metadata).toMatchObject({ name: "vllm_model", versions: ["1"] });
    const config = await model.server.modelConfig("vllm_model");
    expect(config).toMatchObject({ backend: "vllm", max_batch_size: 0, model_transaction_policy: { decoupled: true } });
    const inputs = (config["input"] as { name: string }[]).map(({ name }) => name);
    expect(inputs).toEqual(expect.arrayContaining(["text_input", "stream", "sampling_parameters", "return_logprobs"]));
    const index = await model.server.repositoryIndex();
    expect(index.find(({ name }) => name === "vllm_model")?.state).toBe("READY");
    expect(JSON.stringify(await model.server.modelStatistics("vllm_model"))).toContain('"inference_count"');
    expect((await model.server.metadata()).version).toBe("2.51.0");
  });

  test("a model name that does not exist", async () => {
    await expect(model.server.loadModel("nonexistent")).rejects.toMatchObject({ code: "ERR_MODEL_LOAD" });
    await expect(
      model.server
        .infer({ model: "nonexistent", inputs: [{ name: "text_input", datatype: "BYTES", data: [""] }] })
        .response(),
    ).rejects.toThrow(/unknown model|not found/i);
  });
});

describe("ENABLE_VLLM_HEALTH_CHECK", () => {
  // A real engine that dies of a real exception in its step (test/fixtures/breaking_processor.py).
  const breakable = { ...tinyEngine, logits_processors: ["breaking_processor:BreakingProcessor"] };

  function load(
    value: string | undefined,
    options: Pick<VllmModelOptions, "restart" | "onRestart"> = {},
  ): Promise<VllmModel> {
    const parameter =
      value === undefined
        ? ""
        : `parameters: { key: "ENABLE_VLLM_HEALTH_CHECK" value: { string_value: "${value}" } }\n`;
    const config = `backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n${parameter}`;
    const modelRepository = writeRepository(temporaryFolder(), { model: breakable, config });
    // Classes that model.json names are looked for beside it.
    copyFileSync(
      join(root, "test/fixtures/breaking_processor.py"),
      join(modelRepository, "vllm_model/1/breaking_processor.py"),
    );
    return VllmModel.load({ modelRepository, ...options });
  }

  async function breakEngine(model: VllmModel): Promise<void> {
    const fatal = { ...sampling, extra_args: { break_engine: true } };
    await expect(ask(model, { text: "Hello", sampling: fatal })).rejects.toMatchObject({
      code: "ERR_TRITON_UNAVAILABLE",
      message: expect.stringContaining("the test broke the engine"),
    });
  }

  test("true and the engine is broken: UNAVAILABLE, then the model is unloaded", async () => {
    await using model = await load("true");
    expect(textOf(await ask(model, { text: "Hello", sampling }))).not.toBe("");
    await breakEngine(model);
    await expect(ask(model, { text: "Hello", sampling })).rejects.toMatchObject({
      code: "ERR_TRITON_UNAVAILABLE",
      message: "Model is unavailable due to unhealthy vLLM engine",
    });
    await expect.poll(() => model.server.isModelReady("vllm_model"), { timeout: 15_000 }).toBe(false);
    await expect(ask(model, { text: "Hello", sampling })).rejects.toThrow();
  });

  test("restart: on-failure: every request in flight learns why, then the model serves again", async () => {
    const phases: string[] = [];
    await using model = await load(undefined, {
      restart: { policy: "on-failure", delay: 50 },
      onRestart: ({ phase }) => phases.push(phase),
    });
    const long = { temperature: 0, max_tokens: 400, ignore_eos: true };
    const inFlight = [1, 2, 3].map((number) => ask(model, { text: `Hello ${number}`, sampling: long, stream: true }));
    const refused = inFlight.map((answer) =>
      expect(answer).rejects.toMatchObject({
        code: "ERR_TRITON_UNAVAILABLE",
        message: expect.stringContaining("the test broke the engine"),
      }),
    );
    await breakEngine(model);
    await Promise.all(refused);
    await until(() => phases.includes("ready"), 60_000);
    expect(textOf(await ask(model, { text: "Hello", sampling }))).not.toBe("");
  });

  test.each([undefined, "false"])("%s: the engine's own error, the model stays loaded", async (value) => {
    await using model = await load(value);
    await breakEngine(model);
    await expect(ask(model, { text: "Hello", sampling })).rejects.toMatchObject({
      code: "ERR_TRITON_UNAVAILABLE",
      message: expect.stringContaining("the vLLM engine is dead"),
    });
    expect(await model.server.isModelReady("vllm_model")).toBe(true);
  });
});
