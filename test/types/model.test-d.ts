import { expectTypeOf, test } from "vitest";
import {
  type AdapterInfo,
  type AdapterNotFoundError,
  type CancellableStream,
  type ChatAnswer,
  type ChatChunk,
  type Choice,
  type GenerateResult,
  type InferenceRequest,
  type StreamChunk,
  TritonodeError,
  type TritonServer,
  type Usage,
  VllmModel,
} from "../../src";

declare const model: VllmModel;

test("load takes the folder form or the object form, not both", () => {
  expectTypeOf(VllmModel.load({ modelRepository: "x" })).resolves.toEqualTypeOf<VllmModel>();
  expectTypeOf(VllmModel.load({ engine: { model: "x" }, loras: { a: "b" } })).resolves.toEqualTypeOf<VllmModel>();
  // @ts-expect-error: neither form
  VllmModel.load({});
  // @ts-expect-error: both forms
  VllmModel.load({ modelRepository: "x", engine: { model: "y" } });
  // @ts-expect-error: the base model is missing
  VllmModel.load({ engine: { dtype: "float32" } });
  // @ts-expect-error: no such option
  VllmModel.load({ modelRepositry: "x" });
});

test("results", () => {
  expectTypeOf(model.generate("x", { lora: "a", max_tokens: 5 })).resolves.toEqualTypeOf<GenerateResult>();
  expectTypeOf<GenerateResult["usage"]>().toEqualTypeOf<Usage>();
  expectTypeOf<GenerateResult["choices"]>().toEqualTypeOf<readonly Choice[]>();
  expectTypeOf(model.adapters.list()).resolves.toEqualTypeOf<AdapterInfo[]>();
});

test("a stream gives chunks", async () => {
  for await (const chunk of model.stream("x")) expectTypeOf(chunk).toEqualTypeOf<StreamChunk>();
});

test("vLLM's parameters by their own names, ours in camelCase", () => {
  model.generate("x", { top_p: 0.5, structured_outputs: { choice: ["a"] }, extra: { some_parameter_of_tomorrow: 1 } });
  // @ts-expect-error: a temperature is a number
  model.generate("x", { temperature: "hot" });
  // @ts-expect-error: a deadline is milliseconds
  model.generate("x", { deadline: "5s" });
  // @ts-expect-error: misspelt
  model.generate("x", { temprature: 0 });
  // @ts-expect-error: misspelt
  model.stream("x", { maxTokens: 5 });
  // @ts-expect-error: not returned, so not taken
  model.generate("x", { prompt_logprobs: 1 });
  // @ts-expect-error: misspelt
  model.tokenize("x", { add_special_token: true });
  // @ts-expect-error: misspelt
  model.embed("x", { dimension: 5 });
});

test("streams: one class, disposable, with the whole answer at the end", () => {
  const stream = model.stream("x");
  expectTypeOf(stream).toExtend<AsyncDisposable>();
  expectTypeOf(stream.final()).resolves.toEqualTypeOf<GenerateResult>();
  expectTypeOf(stream.toReadableStream()).toEqualTypeOf<ReadableStream<StreamChunk>>();
  expectTypeOf(model.server.infer({ model: "m", inputs: [] })).toExtend<AsyncDisposable>();
  expectTypeOf(model.chatStream([])).toExtend<CancellableStream<ChatChunk, ChatAnswer<undefined>>>();
});

test("a server and its requests have no internals on them", () => {
  for (const name of ["shared", "cancelAll", "drained", "shareRepository", "ask"] as const) {
    expectTypeOf<TritonServer>().not.toHaveProperty(name);
  }
  for (const name of ["onCancel", "background", "deliver"] as const) {
    expectTypeOf<InferenceRequest>().not.toHaveProperty(name);
  }
});

test("whether it is ready can't be taken for true by mistake", () => {
  expectTypeOf(model.isReady()).resolves.toEqualTypeOf<boolean>();
  expectTypeOf(model).not.toHaveProperty("ready");
});

test("errors", () => {
  expectTypeOf<AdapterNotFoundError>().toExtend<TritonodeError>();
  expectTypeOf<TritonodeError["code"]>().toEqualTypeOf<string>();
  expectTypeOf<AdapterNotFoundError["available"]>().toEqualTypeOf<readonly string[]>();
  expectTypeOf(new TritonodeError("c", "m")).toExtend<Error>();
  expectTypeOf<VllmModel>().toExtend<AsyncDisposable>();
});

test("events have their own types", () => {
  model.on("restart", ({ phase, attempt }) => {
    expectTypeOf(phase).toEqualTypeOf<"died" | "loading" | "ready" | "failed" | "stopped">();
    expectTypeOf(attempt).toEqualTypeOf<number>();
  });
  model.once("adapter", ({ name, scale }) =>
    expectTypeOf({ name, scale }).toEqualTypeOf<{ name: string; scale: number }>(),
  );
  expectTypeOf(model.off("log", ({ message }) => void message)).toEqualTypeOf<VllmModel>();
  // @ts-expect-error: no such event
  model.on("restarted", () => {});
  expectTypeOf(model).not.toHaveProperty("emit");
  expectTypeOf(model.metrics()).resolves.toHaveProperty("vllm");
});

test("engine arguments are those of vLLM; new ones are not refused", () => {
  VllmModel.load({ engine: { model: "x", dtype: "float32", max_lora_rank: 16, an_argument_of_tomorrow: true } });
  // @ts-expect-error: a number of tokens
  VllmModel.load({ engine: { model: "x", max_model_len: "long" } });
  // @ts-expect-error: a flag
  VllmModel.load({ engine: { model: "x", enforce_eager: 5 } });
});

test("a prompt is a text or token ids; an adapter has a scale everywhere", () => {
  const lora = { name: "sql", path: "./sql", scale: 0.5 };
  model.generate([1, 2], { lora });
  model.stream({ promptTokenIds: [1, 2] }, { lora });
  model.chat([], { lora });
  model.embed("x", { lora });
  // @ts-expect-error: no such form
  model.generate({ tokens: [1, 2] });
  // @ts-expect-error: a scale is a number
  model.generate("x", { lora: { name: "sql", scale: "0.5" } });
});
