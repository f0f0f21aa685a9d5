import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { nearest } from "../common/nearest";
import { shellWord } from "../common/shell";
import { InvalidArgumentError } from "../errors";
import { downloaded, missingModel } from "../model/model-folder";

/** A model that a path on the command line names. */
export type ModelSource =
  | { readonly kind: "repository"; readonly repository: string; readonly name: string | undefined }
  | { readonly kind: "folder" | "gguf"; readonly path: string };

const DEFAULT = "model_repository";

/**
 * Finds out what a path is: a Hugging Face folder, a GGUF file (or a folder with one), a model repository, or a model in one.
 *
 * @throws {@link ModelNotFoundError}, or {@link InvalidArgumentError} saying what is there instead
 */
export function findModel(path: string | undefined, environment = process.env): ModelSource {
  if (path === undefined && !existsSync(DEFAULT)) {
    throw new InvalidArgumentError(`MODEL is missing, and there is no ${resolve(DEFAULT)}`, {
      hint: "name a Hugging Face folder, a GGUF file or a model repository",
    });
  }
  const given = path ?? DEFAULT;
  // A model that was downloaded from the Hugging Face Hub may be named as on the hub.
  const full = existsSync(given) ? resolve(given) : downloaded({ model: given }, environment);
  const stats = full === undefined ? undefined : statSync(full, { throwIfNoEntry: false });
  if (full === undefined || stats === undefined) throw missingModel(given, environment);
  if (!stats.isDirectory()) {
    if (/\.gguf$/i.test(full)) return { kind: "gguf", path: full };
    throw new InvalidArgumentError(`${full} is not a model: the name of a model file ends in .gguf`, {
      hint: existsSync(join(dirname(full), "config.json"))
        ? `the model is the folder: ${dirname(full)}`
        : "name a Hugging Face folder, a GGUF file or a model repository",
    });
  }
  const has = (...names: string[]) => existsSync(join(full, ...names));
  if (has("1", "model.json")) return { kind: "repository", repository: dirname(full), name: basename(full) };
  if (has("model.json") && /^\d+$/.test(basename(full))) {
    return { kind: "repository", repository: dirname(dirname(full)), name: basename(dirname(full)) };
  }
  if (has("config.json")) return { kind: "folder", path: full };
  const entries = readdirSync(full);
  if (entries.some((name) => has(name, "1", "model.json"))) {
    return { kind: "repository", repository: full, name: undefined };
  }
  if (has("adapter_config.json")) {
    throw new InvalidArgumentError(`${full} is an adapter, not a model`, {
      hint: `name its base model, and the adapter with: --lora ${shellWord(`${basename(full)}=${path ?? full}`)}`,
    });
  }
  return inFolder(full, entries);
}

/** A folder that contains a GGUF file, as a download makes it. */
function inFolder(folder: string, entries: readonly string[]): ModelSource {
  const files = entries.filter((name) => /\.gguf$/i.test(name));
  if (files.length === 1 && files[0] !== undefined) return { kind: "gguf", path: join(folder, files[0]) };
  if (files.length > 1) {
    throw new InvalidArgumentError(`${folder} holds ${files.length} GGUF files`, {
      hint: `name one of them: ${files.join(", ")}`,
    });
  }
  throw new InvalidArgumentError(`${folder} holds no model: no config.json, no GGUF file, no <model>/1/model.json`, {
    hint: entries.length === 0 ? "the folder is empty" : undefined,
  });
}

/** An adapter named on the command line. Without a path it is one that the model's repository serves. */
export interface AdapterSource {
  readonly name: string;
  readonly path: string | undefined;
}

/**
 * Reads the values of `--lora`: NAME=PATH, the PATH of an adapter's folder alone, or the NAME of one that is served.
 *
 * @throws {@link InvalidArgumentError} naming the value
 */
export function findAdapters(values: readonly string[], source: ModelSource): AdapterSource[] {
  const found = values.map((value) => findAdapter(value, source));
  for (const [index, { name }] of found.entries()) {
    if (found.findIndex((other) => other.name === name) === index) continue;
    throw new InvalidArgumentError(`--lora names two adapters ${JSON.stringify(name)}`, {
      hint: "give each its own name: --lora first=PATH --lora second=PATH",
    });
  }
  return found;
}

/**
 * Refuses a name that no `--lora` gives, before the model is loaded. A model repository may have further adapters.
 *
 * @param where - what names the adapter: an option, or a line of a file
 * @throws {@link InvalidArgumentError} with the nearest name
 */
export function checkGiven(
  { source, adapters }: { source: ModelSource; adapters: readonly AdapterSource[] },
  lora: string,
  where: string,
): void {
  const names = adapters.map(({ name }) => name);
  if (source.kind === "repository" || names.includes(lora)) return;
  const near = nearest(lora, names);
  throw new InvalidArgumentError(`${where} names the adapter ${JSON.stringify(lora)}, which no --lora gives`, {
    hint: near === undefined ? `add: --lora ${shellWord(`${lora}=PATH`)}` : `did you mean ${near}?`,
  });
}

function findAdapter(value: string, source: ModelSource): AdapterSource {
  const equals = value.indexOf("=");
  if (equals > 0) {
    const path = resolve(value.slice(equals + 1));
    if (value.length > equals + 1 && statSync(path, { throwIfNoEntry: false })?.isDirectory()) {
      return { name: value.slice(0, equals), path };
    }
    throw new InvalidArgumentError(`--lora ${JSON.stringify(value)}: there is no folder ${path}`, {
      hint: "--lora NAME=PATH, where PATH is the folder that PEFT wrote (adapter_config.json is in it)",
    });
  }
  if (existsSync(join(value, "adapter_config.json"))) return { name: basename(resolve(value)), path: resolve(value) };
  if (source.kind === "repository" && value !== "" && !value.includes("/")) return { name: value, path: undefined };
  throw new InvalidArgumentError(`--lora ${JSON.stringify(value)} is neither NAME=PATH nor the folder of an adapter`, {
    hint: "--lora NAME=PATH, where PATH is the folder that PEFT wrote (adapter_config.json is in it)",
  });
}
