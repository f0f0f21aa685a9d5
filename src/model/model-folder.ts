import { closeSync, existsSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { namesIn } from "../common/files";
import { nearest } from "../common/nearest";
import { InvalidArgumentError, ModelNotFoundError } from "../errors";
import { checkGgufFile, isGguf } from "./gguf";
import { cachedModel, hubCache, isHubName } from "./hub-cache";

/** The longest header that is read, enough for a file with about 100,000 tensors. */
const maxHeaderBytes = 100 << 20;
/** Load formats that read a folder's safetensors files, or any weights that they find. */
const plainFormats: readonly unknown[] = [undefined, null, "auto", "hf", "safetensors"];

/**
 * Checks a base model's files before a child is started for it: seconds earlier than vLLM, and with clearer errors.
 *
 * @param engine - the engine arguments of the model
 * @param environment - of the child: where the Hugging Face Hub's cache is
 * @throws {@link ModelNotFoundError} for a path or a name that does not exist; {@link InvalidArgumentError} for a folder without
 *   `config.json` or weights, and for weights that are damaged or incomplete.
 */
export function checkModelFolder(
  engine: Readonly<Record<string, unknown>>,
  environment: NodeJS.ProcessEnv = process.env,
): void {
  const { model } = engine;
  if (typeof model !== "string" || model.includes("://")) return;
  if (isGguf(model)) {
    checkGgufFile(model);
    return;
  }
  const path = existsSync(model) ? resolve(model) : downloaded(engine, environment);
  if (path === undefined) {
    if (isElsewhere(environment)) return;
    throw missingModel(model, environment);
  }
  if (!statSync(path).isDirectory()) {
    throw new InvalidArgumentError(`the model ${path} is a file, but not a .gguf file`, {
      hint: `name its folder: ${dirname(path)}`,
    });
  }
  const names = namesIn(path);
  // With these arguments the configuration is elsewhere, or in Mistral's own format.
  const configured = names.includes("config.json") || names.includes("params.json") || engine["hf_config_path"] != null;
  if (!configured) throw unconfigured(path, names);
  if (names.includes("config.json")) checkContext(engine, readObject(join(path, "config.json")), environment);
  if (plainFormats.includes(engine["load_format"])) checkWeights(path, names);
}

/** The folder of a model that was downloaded from the Hugging Face Hub, if the argument `model` is its name. */
export function downloaded(
  { model, revision }: Readonly<Record<string, unknown>>,
  environment: NodeJS.ProcessEnv,
): string | undefined {
  if (typeof model !== "string") return undefined;
  return cachedModel(model, environment, typeof revision === "string" ? revision : undefined);
}

/** Whether vLLM may look for names in other places: the user has allowed downloads, or uses ModelScope. */
function isElsewhere({ HF_HUB_OFFLINE: offline, VLLM_USE_MODELSCOPE: scope }: NodeJS.ProcessEnv): boolean {
  const isSet = (value: string | undefined) => value !== undefined && /^(1|true|yes|on)$/i.test(value);
  return (offline !== undefined && !isSet(offline)) || isSet(scope);
}

/**
 * The error for a path or a name that nothing has.
 *
 * @param model - as it was given
 */
export function missingModel(model: string, environment: NodeJS.ProcessEnv): ModelNotFoundError {
  const path = resolve(model);
  const siblings = namesIn(dirname(path));
  const near = nearest(basename(path), siblings);
  if (near !== undefined) {
    return new ModelNotFoundError(model, `there is no model ${path} (did you mean '${near}'?)`, {
      hint: `there is ${join(dirname(path), near)}`,
    });
  }
  if (model.startsWith("~")) {
    return new ModelNotFoundError(model, `there is no model ${path}`, {
      hint: "only a shell replaces ~: write the home folder's path",
    });
  }
  if (isHubName(model) && siblings.length === 0) {
    return new ModelNotFoundError(
      model,
      `there is no model '${model}': no folder ${path}, and none of this name in the Hugging Face cache ${hubCache(environment)}`,
      {
        hint: `models are not downloaded: run \`hf download ${model} --local-dir ${basename(model)}\` (pip install huggingface_hub), and pass the path of that folder`,
      },
    );
  }
  const parent =
    siblings.length === 0 && !existsSync(dirname(path)) ? `; there is no folder ${dirname(path)} either` : "";
  return new ModelNotFoundError(model, `there is no model ${path}${parent}`, {
    hint: `models are not downloaded: name a folder with config.json and weights, or a .gguf file; relative paths start at ${process.cwd()}`,
  });
}

function unconfigured(path: string, names: readonly string[]): InvalidArgumentError {
  const gguf = names.find((name) => isGguf(name));
  const inner = names.find((name) => existsSync(join(path, name, "config.json")));
  const better = gguf ?? inner;
  const adapter = names.includes("adapter_config.json");
  const hint = adapter
    ? 'it is an adapter: pass it in loras ({ name: "path" }), and its base model as engine.model'
    : better === undefined
      ? "get the whole folder of the model: config.json, tokenizer files and weights"
      : `did you mean ${join(path, better)}?`;
  return new InvalidArgumentError(`the model's folder ${path} has no config.json`, { hint });
}

/** Reads a JSON object of the model. @throws {@link InvalidArgumentError} */
function readObject(file: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(readFileSync(file, "utf8"));
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("not a JSON object");
    return value as Record<string, unknown>;
  } catch (cause) {
    throw new InvalidArgumentError(`${file} is not valid JSON: ${(cause as Error).message}`, {
      cause,
      hint: lfsHint(file) ?? "get the file again from where the model came from",
    });
  }
}

/**
 * Compares `max_model_len` with the length that the model was made for, as vLLM does. Models whose length follows from more than
 * `max_position_embeddings` are left to vLLM.
 */
function checkContext(
  { max_model_len: wanted, hf_overrides: overrides }: Readonly<Record<string, unknown>>,
  config: Readonly<Record<string, unknown>>,
  { VLLM_ALLOW_LONG_MAX_MODEL_LEN: allowed }: NodeJS.ProcessEnv,
): void {
  const { max_position_embeddings: longest, rope_scaling: scaling, rope_parameters: rope } = config;
  const others = Object.keys(config).some((name) =>
    /^(n_positions|(model_)?(max_)?(seq|sequence)_?len(gth)?|model_max_length)$/.test(name),
  );
  // `rope_parameters` may hold an object for each kind of layer.
  const scaled = scaling != null || JSON.stringify(rope ?? {}).includes('factor"');
  if (typeof longest !== "number" || others || scaled || overrides !== undefined || allowed) return;
  if (!(Number(wanted) > longest)) return;
  throw new InvalidArgumentError(
    `max_model_len is ${Number(wanted)}, and the model was made for ${longest} tokens (max_position_embeddings in its config.json)`,
    { hint: `leave max_model_len out, or lower it to ${longest}` },
  );
}

function checkWeights(path: string, names: readonly string[]): void {
  const index = names.find((name) => name.endsWith(".safetensors.index.json"));
  if (index !== undefined) checkShards(path, index, names);
  const files = names.filter((name) => name.endsWith(".safetensors"));
  for (const name of files) checkSafetensors(join(path, name));
  if (files.length === 0 && !names.some((name) => /\.(bin|pt|pth|gguf)$/.test(name))) {
    throw new InvalidArgumentError(`the model's folder ${path} has no weights (no *.safetensors)`, {
      hint: "get the weights too; a clone without Git LFS has none",
    });
  }
}

function checkShards(path: string, index: string, names: readonly string[]): void {
  const { weight_map: map } = readObject(join(path, index));
  const lost = [...new Set(Object.values(map ?? {}))].filter((name) => !names.includes(String(name)));
  if (lost.length === 0) return;
  throw new InvalidArgumentError(`the model's folder ${path} lacks ${lost.length} of its files, ${lost[0]} first`, {
    hint: `${index} names them: get them from where the model came from`,
  });
}

/** Compares a file's size with its header, which says where the last tensor ends (https://github.com/huggingface/safetensors, "Format"). */
function checkSafetensors(path: string): void {
  const { size } = statSync(path);
  const damaged = (what: string, cause?: unknown) =>
    new InvalidArgumentError(`the weights ${path} are damaged: ${what}`, {
      cause,
      hint: lfsHint(path) ?? "get the file again, or compare its checksum with the one where it came from",
    });
  const file = openSync(path, "r");
  try {
    const prefix = Buffer.alloc(8);
    const read = readSync(file, prefix, 0, 8, 0);
    const length = read === 8 ? prefix.readBigUInt64LE() : 0n;
    if (length === 0n || length > BigInt(Math.min(size - 8, maxHeaderBytes))) {
      throw damaged(`it has ${size} bytes and no header that fits`);
    }
    const header = Buffer.alloc(Number(length));
    readSync(file, header, 0, header.length, 8);
    let end = 0;
    try {
      for (const [name, tensor] of Object.entries(JSON.parse(header.toString()) as Record<string, unknown>)) {
        if (name === "__metadata__") continue;
        end = Math.max(end, (tensor as { data_offsets: number[] }).data_offsets[1] as number);
      }
    } catch (cause) {
      throw damaged("its header is not a list of tensors", cause);
    }
    const whole = 8 + header.length + end;
    if (size < whole) throw damaged(`it has ${size} bytes, and its header speaks of ${whole}`);
  } finally {
    closeSync(file);
  }
}

function lfsHint(path: string): string | undefined {
  const { size } = statSync(path);
  const pointer = size < 1024 && readFileSync(path, "utf8").startsWith("version https://git-lfs");
  return pointer ? "it is a Git LFS pointer: fetch the file itself (git lfs pull)" : undefined;
}
