import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  BackendFeatureError,
  findRuntime,
  type Runtime,
  TritonServer,
  VllmModel,
  type VllmModelOptions,
} from "../../src";
import { tritonOfDirectory } from "../../src/runtime/find/triton";
import { keepLog, output, tinyEngine } from "../support/models";
import { adapter, root } from "../support/paths";
import { unless } from "../support/skip";

// Another vLLM backend than this package's, served unmodified (option `backend`): one of the tests' own, which keeps to the
// contract of Triton's and to nothing else; and where TRITONODE_TEST_TRITON names a Triton laid out as in NVIDIA's
// container and TRITONODE_TEST_PYTHON a Python with a vLLM that its backend supports, that one: docs/guides/container.md.

const own = join(root, "test/fixtures/contract_backend");
const { TRITONODE_TEST_TRITON: container, TRITONODE_TEST_PYTHON: python } = process.env;
const loras = { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") };
const log = keepLog();

const options: VllmModelOptions = {
  backend: own,
  engine: { ...tinyEngine, enable_lora: true, max_loras: 2, max_lora_rank: 16 },
  loras,
  logger: log,
  // vLLM as it is compiles its helpers at their first use, which takes half a minute.
  environment: { VLLM_CPU_OMP_THREADS_BIND: "nobind", VLLM_CPU_KVCACHE_SPACE: "1", TORCHDYNAMO_DISABLE: "1" },
};

async function containerOptions(): Promise<VllmModelOptions> {
  const runtime = await findRuntime();
  const triton = tritonOfDirectory(container as string);
  // In the container these are the system's.
  const libraries = existsSync(join(container as string, "lib/libnghttp2.so.14") as string);
  const dependencyDirectory = libraries ? undefined : runtime.triton.dependencyDirectory;
  const borrowed: Runtime = { ...runtime, python: python as string, triton: { ...triton, dependencyDirectory } };
  return { ...options, runtime: borrowed, backend: join(container as string, "backends/vllm") };
}

const greedy = { temperature: 0, max_tokens: 12 };
const prompt = "Hello, my name is";

const cases: [string, object, () => Promise<VllmModelOptions>][] = [
  ["one that keeps to the contract alone", {}, async () => options],
  [
    "the one of NVIDIA's container",
    unless(container === undefined || python === undefined, "TRITONODE_TEST_TRITON and _PYTHON name none"),
    containerOptions,
  ],
];

describe.each(cases)("another backend: %s", (_, condition, load) => {
  describe("through VllmModel", condition, () => {
    let model: VllmModel;
    beforeAll(async () => {
      model = await VllmModel.load(await load());
    });
    afterAll(() => model?.dispose());

    it("answers with the base model and adapters, one by one and streamed", async () => {
      const names = [undefined, "lora_a", "lora_b"];
      const texts = [];
      for (const lora of names) {
        const { text, finishReason, usage } = await model.generate(prompt, { ...greedy, lora });
        expect([finishReason, usage.completionTokens]).toEqual(["length", 12]);
        expect(usage.promptTokens).toBeGreaterThan(3);
        texts.push(text);
        const stream = model.stream(prompt, { ...greedy, lora });
        const pieces = [];
        for await (const piece of stream) pieces.push(piece);
        expect(pieces.length).toBeGreaterThan(3);
        expect(pieces.map((piece) => piece.text).join("")).toBe(text);
        expect(pieces.at(-1)).toMatchObject({ finishReason: "length", usage });
      }
      expect(new Set(texts).size).toBe(3);
    });

    it("gives log probabilities", async () => {
      const { logprobs } = await model.generate(prompt, { ...greedy, max_tokens: 2, logprobs: 1 });
      expect(logprobs?.map((position) => position[0]?.rank)).toEqual([1, 1]);
    });

    it("names adapters that it does not have", async () => {
      await expect(model.generate(prompt, { ...greedy, lora: "lora_c" })).rejects.toMatchObject({
        code: "ERR_ADAPTER_NOT_FOUND",
        available: ["lora_a", "lora_b"],
      });
    });

    it.each<[string, (model: VllmModel) => Promise<unknown>]>([
      ["adapters.list", (model) => model.adapters.list()],
      ["adapters.load", (model) => model.adapters.load("x", adapter("lora_a"))],
      ["adapters.unload", (model) => model.adapters.unload("lora_a")],
      ["an adapter by its path", (model) => model.generate(prompt, { lora: { name: "x", path: adapter("lora_a") } })],
      ["chat", (model) => model.chat([{ role: "user", content: "Hi" }])],
      ["embed", (model) => model.embed("Hi")],
      ["tokenize", (model) => model.tokenize("Hi")],
      ["info", (model) => model.info()],
      ["images", (model) => model.generate(prompt, { images: ["AA=="] })],
    ])("says at once that there is no %s", async (what, call) => {
      if (what === "images" && container !== undefined) return;
      await expect((async () => call(model))()).rejects.toMatchObject({
        name: "BackendFeatureError",
        code: "ERR_BACKEND_FEATURE",
        hint: expect.stringContaining("leave out `backend`"),
      });
    });

    it("has no fetch, in the way of fetch", async () => {
      const error = await model.fetch("models").then(
        () => expect.unreachable(),
        (reason: Error) => reason,
      );
      expect(error).toBeInstanceOf(TypeError);
      expect(error.cause).toBeInstanceOf(BackendFeatureError);
    });

    it("cancels through Triton: a stream that is left, a signal, a deadline", async () => {
      const long = { temperature: 0, max_tokens: 480, ignore_eos: true };
      let pieces = 0;
      for await (const _piece of model.stream(prompt, long)) if (++pieces === 3) break;
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 100);
      await expect(model.generate(prompt, { ...long, signal: controller.signal })).rejects.toMatchObject({
        code: "ERR_REQUEST_CANCELLED",
      });
      await expect(model.generate(prompt, { ...long, deadline: 100 })).rejects.toMatchObject({
        code: "ERR_DEADLINE_EXCEEDED",
      });
      await expect
        .poll(() => log.lines.filter((line) => /aborted after|Successfully cancelled/.test(line)).length)
        .toBeGreaterThanOrEqual(3);
      expect((await model.generate(prompt, greedy)).finishReason).toBe("length");
    });

    it("can't be had beside tritonode's own in one process", async () => {
      const { backend: _own, ...others } = await load();
      await expect(VllmModel.load({ ...others, model: "second" } as VllmModelOptions)).rejects.toMatchObject({
        code: "ERR_INVALID_ARGUMENT",
        message: expect.stringContaining("has its backend 'vllm' from"),
      });
    });
  });

  it("through TritonServer, and stops", condition, async () => {
    const { runtime, backend, environment, engine } = (await load()) as VllmModelOptions & { engine: object };
    await using server = await TritonServer.start({
      runtime: typeof runtime === "object" ? runtime : await findRuntime(),
      backends: { vllm: backend as string },
    });
    const config = { backend: "vllm", instance_group: [{ count: 1, kind: "KIND_MODEL" }] };
    const files = { "1/model.json": JSON.stringify(engine), "1/multi_lora.json": JSON.stringify(loras) };
    await server.loadModel("plain", { config, files, environment });
    const ask = (sampling: object) =>
      server.infer({
        model: "plain",
        inputs: [
          { name: "text_input", datatype: "BYTES", data: [prompt] },
          { name: "sampling_parameters", datatype: "BYTES", data: [JSON.stringify(sampling)] },
        ],
      });
    expect(output(await ask(greedy).response(), "text_output")?.[0]).toMatch(new RegExp(`^${prompt}.`));
    await expect(ask({ ...greedy, lora_name: "nope" }).response()).rejects.toThrow(
      "LoRA nope is not supported, we currently support ['lora_a', 'lora_b']",
    );
    const unknown = server.infer({
      model: "plain",
      inputs: [
        { name: "text_input", datatype: "BYTES", data: [""] },
        { name: "control_request", datatype: "BYTES", data: ["{}"] },
      ],
    });
    await expect(unknown.response()).rejects.toMatchObject({ tritonCode: "INVALID_ARG" });
    await server.unloadModel("plain");
  });
});

it("a backend before 24.12 gives texts without reasons and counts", async () => {
  const environment = { ...options.environment, CONTRACT_BEFORE_24_12: "1" };
  await using model = await VllmModel.load({ ...options, environment });
  const { text, finishReason, usage } = await model.generate(prompt, greedy);
  expect([finishReason, usage.totalTokens]).toEqual(["unknown", 0]);
  expect(text).not.toBe("");
  const pieces = [];
  for await (const piece of model.stream(prompt, greedy)) pieces.push(piece);
  expect(pieces.map((piece) => piece.text).join("")).toBe(text);
  expect(pieces.map((piece) => piece.finishReason)).toEqual([...pieces.slice(1).map(() => null), "unknown"]);
});

it("a folder without a model.py is refused before anything starts", async () => {
  await expect(VllmModel.load({ ...options, backend: root })).rejects.toMatchObject({
    code: "ERR_INVALID_ARGUMENT",
    message: expect.stringContaining(join(root, "model.py")),
  });
});
