import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { describe } from "../common/describe";
import { didYouMean } from "../common/unknown";
import { InvalidArgumentError } from "../errors";
import type { EngineArguments } from "./generated/engine-arguments";
import { downloaded } from "./model-folder";

export type { EngineArguments };

/** A model repository's folder and the name of a model in it. */
export interface ModelLocation {
  readonly repository: string;
  readonly name: string;
}

/** Finds the model in a model repository. @throws {@link InvalidArgumentError} naming the folder and its models. */
export function locateModel(repository: string, name: string | undefined): ModelLocation {
  if (typeof repository !== "string" || repository === "") {
    throw new InvalidArgumentError(`modelRepository must be a path, got ${describe(repository)}`);
  }
  const path = resolve(repository);
  if (!existsSync(path)) {
    throw new InvalidArgumentError(`the model repository ${path} does not exist`, {
      hint: "it is the folder that holds <model>/1/model.json",
    });
  }
  let models: string[];
  try {
    models = readdirSync(path, { withFileTypes: true })
      .filter((entry) => !entry.name.startsWith(".") && existsSync(join(path, entry.name, "1")))
      .map((entry) => entry.name);
  } catch (cause) {
    throw new InvalidArgumentError(`the model repository ${path} cannot be read`, { cause });
  }
  if (name !== undefined) {
    if (models.includes(name)) return { repository: path, name };
    throw new InvalidArgumentError(`the model repository ${path} holds no model '${name}'${didYouMean(name, models)}`, {
      hint: models.length === 0 ? "it holds no models" : `it holds ${models.join(", ")}`,
    });
  }
  const vllm = models.filter((model) => existsSync(join(path, model, "1", "model.json")));
  if (vllm.length === 1 && vllm[0] !== undefined) return { repository: path, name: vllm[0] };
  if (vllm.length === 0) {
    throw new InvalidArgumentError(`the model repository ${path} holds no vLLM model`, {
      hint: existsSync(join(path, "1", "model.json"))
        ? `pass the folder above it: ${resolve(path, "..")}`
        : existsSync(join(path, "config.json"))
          ? `it is a model's own folder: VllmModel.load({ engine: { model: ${JSON.stringify(repository)} } })`
          : "the layout is <model repository>/<model>/1/model.json",
    });
  }
  throw new InvalidArgumentError(`the model repository ${path} holds ${vllm.length} models`, {
    hint: `say which: model: ${vllm.map((model) => JSON.stringify(model)).join(" or ")}`,
  });
}

/**
 * Writes the settings that were given as objects to the files of a model repository, in a private folder.
 *
 * @param directory - becomes the model repository
 */
export function writeModel(
  directory: string,
  name: string,
  engine: EngineArguments,
  loras: Record<string, string> | undefined,
  environment: NodeJS.ProcessEnv = process.env,
): ModelLocation {
  if (!/^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(name)) {
    throw new InvalidArgumentError(`model must be a name of letters, digits, '_', '-' and '.', got ${describe(name)}`);
  }
  const settings: EngineArguments = { ...engine, model: absolute(engine, environment) };
  const adapters: Record<string, string> = {};
  for (const [lora, path] of Object.entries(loras ?? {})) {
    if (typeof path !== "string" || path === "") {
      throw new InvalidArgumentError(`loras['${lora}'] must be the adapter's folder, got ${describe(path)}`);
    }
    adapters[lora] = resolve(path);
  }
  if (loras !== undefined && settings["enable_lora"] === undefined) settings["enable_lora"] = true;
  const version = join(directory, name, "1");
  mkdirSync(version, { recursive: true });
  writeFileSync(join(version, "model.json"), JSON.stringify(settings, undefined, 2));
  if (loras !== undefined) writeFileSync(join(version, "multi_lora.json"), JSON.stringify(adapters, undefined, 2));
  writeFileSync(
    join(directory, name, "config.pbtxt"),
    'backend: "vllm"\ninstance_group [ { count: 1, kind: KIND_MODEL } ]\n',
  );
  return { repository: directory, name };
}

/** The path of the model's folder or file, also of a downloaded model that is named as on the hub; else the name unchanged. */
function absolute(engine: EngineArguments, environment: NodeJS.ProcessEnv): string {
  const { model } = engine;
  if (isAbsolute(model) || existsSync(model)) return resolve(model);
  return downloaded(engine, environment) ?? model;
}

/**
 * Reads the engine arguments of a model in a repository.
 *
 * @returns them and the file's path
 * @throws {@link InvalidArgumentError} for a `model.json` that is missing or not a JSON object
 */
export function readEngineArguments(location: ModelLocation): { path: string; engine: Record<string, unknown> } {
  const path = join(location.repository, location.name, "1", "model.json");
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    throw new InvalidArgumentError(`the model '${location.name}' has no readable ${path}`, { cause });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
    if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("not a JSON object");
  } catch (cause) {
    throw new InvalidArgumentError(`${path} is not valid JSON: ${(cause as Error).message}`, { cause });
  }
  return { path, engine: value as Record<string, unknown> };
}

/** Removes what {@link writeModel} wrote. */
export function removeModel(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
}
