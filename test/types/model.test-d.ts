import { expectTypeOf, test } from "vitest";
import {
  type AdapterInfo,
  type AdapterNotFoundError,
  type Choice,
  type GenerateResult,
  type StreamChunk,
  TritonodeError,
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
  model.generate("x", { top_p: 0.5, structured_outputs: { choice: ["a"] }, some_parameter_of_tomorrow: 1 });
  // @ts-expect-error: a temperature is a number
  model.generate("x", { temperature: "hot" });
  // @ts-expect-error: a deadline is milliseconds
  model.generate("x", { deadline: "5s" });
});

test("errors", () => {
  expectTypeOf<AdapterNotFoundError>().toExtend<TritonodeError>();
  expectTypeOf<TritonodeError["code"]>().toEqualTypeOf<string>();
  expectTypeOf<AdapterNotFoundError["available"]>().toEqualTypeOf<readonly string[]>();
  expectTypeOf(new TritonodeError("c", "m")).toExtend<Error>();
  expectTypeOf<VllmModel>().toExtend<AsyncDisposable>();
});
