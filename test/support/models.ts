import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { EngineArguments, InferenceResponse, Logger } from "../../src";
import { VllmModel } from "../../src";
import { adapter, fixtures } from "./paths";

/** Engine arguments of the tiny model: float32 (its texts are exact), little memory. */
export const tinyEngine: EngineArguments = {
  model: fixtures.models.tiny,
  dtype: "float32",
  max_model_len: 512,
  kv_cache_memory_bytes: 256 << 20,
  enforce_eager: true,
};

/** A logger that keeps the lines: `text()` for a failed test's message. */
export function keepLog(): Logger & { lines: string[] } {
  const lines: string[] = [];
  const keep = (message: string) => void lines.push(message);
  return { lines, debug: keep, info: keep, warn: keep, error: keep };
}

/** The tiny model with two adapters and one on all modules. */
export function loadTiny(
  engine: Partial<EngineArguments> = {},
  loras: Record<string, string> | undefined = {
    lora_a: adapter("lora_a"),
    lora_b: adapter("lora_b"),
    lora_all: adapter("lora_all"),
  },
  name?: string,
): Promise<VllmModel> {
  return VllmModel.load({
    engine: { ...tinyEngine, ...engine },
    loras,
    ...(name === undefined ? {} : { model: name }),
  });
}

export interface RepositoryFiles {
  model?: object | string;
  loras?: object | string;
  config?: string;
}

/** Writes a model repository with one vLLM model; a string is written as it is, left out: no such file. */
export function writeRepository(folder: string, files: RepositoryFiles, name = "vllm_model"): string {
  const version = join(folder, name, "1");
  mkdirSync(version, { recursive: true });
  const text = (value: object | string) => (typeof value === "string" ? value : JSON.stringify(value));
  if (files.model !== undefined) writeFileSync(join(version, "model.json"), text(files.model));
  if (files.loras !== undefined) writeFileSync(join(version, "multi_lora.json"), text(files.loras));
  writeFileSync(
    join(folder, name, "config.pbtxt"),
    files.config ?? 'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n',
  );
  return folder;
}

export interface ContractRequest {
  text: string;
  stream?: boolean;
  exclude?: boolean;
  sampling?: object | string;
  parameters?: Record<string, string | number | boolean>;
  returns?: string[];
  embedding?: string;
  signal?: AbortSignal;
}

/** Sends the contract's own tensors and collects the responses: what any Triton client would see. */
export async function ask(model: VllmModel, request: ContractRequest): Promise<InferenceResponse[]> {
  const bool = (name: string, value: boolean | undefined) =>
    value === undefined ? [] : [{ name, datatype: "BOOL" as const, data: [value] }];
  const text = (name: string, value: object | string | undefined) =>
    value === undefined
      ? []
      : [{ name, datatype: "BYTES" as const, data: [typeof value === "string" ? value : JSON.stringify(value)] }];
  const stream = model.server.infer({
    model: model.name,
    inputs: [
      { name: "text_input", datatype: "BYTES", data: [request.text] },
      ...bool("stream", request.stream),
      ...bool("exclude_input_in_output", request.exclude),
      ...text("sampling_parameters", request.sampling),
      ...text("embedding_request", request.embedding),
      ...(request.returns ?? []).map((name) => ({ name, datatype: "BOOL" as const, data: [true] })),
    ],
    parameters: request.parameters,
    signal: request.signal,
  });
  const responses: InferenceResponse[] = [];
  for await (const response of stream) responses.push(response);
  return responses;
}

/** One output's elements, or undefined where a response does not carry it. */
export function output(response: InferenceResponse | undefined, name: string): unknown[] | undefined {
  const data = response?.outputs[name]?.data;
  return data === undefined ? undefined : Array.from(data as ArrayLike<unknown>);
}

/** The first choice's text over all responses. */
export function textOf(responses: InferenceResponse[]): string {
  return responses.map((response) => output(response, "text_output")?.[0] ?? "").join("");
}
