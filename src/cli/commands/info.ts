import { existsSync } from "node:fs";
import { join } from "node:path";
import { InvalidArgumentError } from "../../errors";
import { describeModel, type ModelDescription } from "../../model/describe";
import type { ModelInfo } from "../../model/info";
import { formatBytes } from "../../runtime/install/progress";
import { parse } from "../arguments";
import type { Run } from "../context";
import { withModel } from "../model";
import { readRepository } from "../model-repository";
import { findModel } from "../model-source";
import { info as spec } from "../table/models";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const source = findModel(positionals[0]);
  const rows: [string, string][] = [];
  const told: Record<string, unknown> = {};
  if (source.kind === "repository") {
    const [model, ...others] = readRepository(source.repository, source.name);
    if (model === undefined || others.length > 0) {
      throw new InvalidArgumentError(`${source.repository} holds ${others.length + 1} models`, {
        hint: `name one: ${[model, ...others].map((each) => join(source.repository, each?.name ?? "")).join(", ")}`,
      });
    }
    const { name, base, adapters } = model;
    Object.assign(told, { repository: source.repository, name, adapters: adapters.map((adapter) => adapter.name) });
    rows.push(["repository", source.repository], ["model", name]);
    rows.push(["adapters", adapters.length === 0 ? "none" : adapters.map((adapter) => adapter.name).join(", ")]);
    // The base model may be a name that vLLM resolves itself: then there is nothing to read here.
    if (existsSync(base)) describeBase(await describeModel(base, context));
    else rows.push(["base", base]);
  } else {
    describeBase(await describeModel(source.path, context));
  }
  if (values.load) {
    const loaded = await withModel(context, { source, quiet: values.json }, (model) => model.info());
    Object.assign(told, { loaded: loadedJson(loaded) });
    rows.push(["loaded in", `${loaded.loadSeconds.toFixed(1)} s, by vLLM ${loaded.vllmVersion}`]);
    const { bytes, tokens, maxModelLen } = loaded.kvCache;
    const size = bytes === undefined ? "" : `, ${formatBytes(bytes)}`;
    rows.push(["KV cache", `${tokens.toLocaleString("en")} tokens${size}; at most ${maxModelLen} a conversation`]);
    rows.push(["engine", JSON.stringify(loaded.engineArgs)]);
  }
  context.stdout.write(
    values.json
      ? `${JSON.stringify(told)}\n`
      : rows.map(([name, text]) => `${`${name}:`.padEnd(15)} ${text}\n`).join(""),
  );
  return 0;

  function describeBase(model: ModelDescription): void {
    Object.assign(told, model);
    rows.push(...lines(model));
  }
};

/** `model.info()` with names as in the rest of the result, which are vLLM's and Hugging Face's: in snake_case. */
export function loadedJson({ kvCache, adapters, requests, ...info }: ModelInfo) {
  return {
    model: info.model,
    vllm_version: info.vllmVersion,
    pid: info.pid,
    load_seconds: info.loadSeconds,
    kv_cache: { tokens: kvCache.tokens, bytes: kvCache.bytes ?? null, max_model_len: kvCache.maxModelLen },
    requests,
    enable_lora: info.enableLora,
    adapters:
      adapters === undefined
        ? null
        : { loads: adapters.loads, evictions: adapters.evictions, in_memory: adapters.inMemory },
    engine_args: info.engineArgs,
  };
}

function lines(model: ModelDescription): [string, string][] {
  const whole = (value: number | null) => (value === null ? "not said" : value.toLocaleString("en"));
  const types = Object.entries(model.types)
    .slice(0, 3)
    .map(([type, count]) =>
      Object.keys(model.types).length === 1 ? type : `${type} ${share(count, model.parameters)}`,
    );
  const rows: [string, string][] = [
    [model.kind === "gguf" ? "GGUF file" : "folder", model.path],
    ["architecture", model.architecture ?? "not said"],
    [
      "parameters",
      `${millions(model.parameters)}, ${whole(model.layers)} layers, hidden size ${whole(model.hidden_size)}`,
    ],
    ["weights", `${types.join(", ") || "none"}, ${formatBytes(model.bytes)}`],
    ["quantization", model.quantization ?? "none"],
    ["context", `${whole(model.context)} tokens`],
    ["vocabulary", `${whole(model.vocabulary)} tokens`],
    ["chat template", model.chat_template ? "yes" : "none: the model continues texts, and knows no turns"],
  ];
  return [...rows, ...model.problems.map((problem): [string, string] => ["problem", problem])];
}

function millions(count: number): string {
  return count >= 1e9 ? `${(count / 1e9).toFixed(2)} billion` : `${(count / 1e6).toFixed(1)} million`;
}

function share(count: number, all: number): string {
  return `${((100 * count) / all).toFixed(count < all / 100 ? 2 : 0)}%`;
}
