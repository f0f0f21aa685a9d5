import { existsSync, readFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { describe } from "../common/describe";
import { namesIn } from "../common/files";
import { nearest } from "../common/nearest";
import { didYouMean } from "../common/unknown";
import { InvalidArgumentError } from "../errors";
import { AdapterLoadError, adapterFolderHint } from "./failure";
import { argumentKinds, vllmVersion } from "./generated/argument-kinds";
import type { VllmModelOptions } from "./load";
import { checkModelFolder } from "./model-folder";
import { locateModel, readEngineArguments } from "./repository";

/** Set to 1, it leaves all engine arguments to vLLM's own check, after Python's imports. */
const ALLOW_VARIABLE = "TRITONODE_ALLOW_ARGUMENTS";
const way = `${ALLOW_VARIABLE}=1 in the environment leaves the check to vLLM`;

const TRUE_OR_FALSE = /^\s*(true|false|yes|no|on|off|1|0)\s*$/i;

/** What a value of a kind is called, and whether a value is one. The backend reads strings too (tritonode/coerce.py). */
const kinds: Readonly<Record<string, { readonly name: string; is(value: unknown): boolean }>> = {
  boolean: {
    name: "true or false",
    is: (value) =>
      typeof value === "boolean" ||
      value === 0 ||
      value === 1 ||
      (typeof value === "string" && TRUE_OR_FALSE.test(value)),
  },
  integer: {
    name: "a whole number",
    is: (value) => Number.isInteger(value) || (typeof value === "string" && /^\s*[+-]?\d+\s*$/.test(value)),
  },
  number: {
    name: "a number",
    is: (value) =>
      typeof value === "number" || (typeof value === "string" && value.trim() !== "" && !Number.isNaN(Number(value))),
  },
  string: { name: "a string", is: (value) => typeof value === "string" },
  null: { name: "null", is: (value) => value === null },
  array: { name: "an array", is: Array.isArray },
  object: {
    name: "an object",
    is: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  },
};

/** The environment of a model's child. */
export function childEnvironment({ environment }: Pick<VllmModelOptions, "environment">): NodeJS.ProcessEnv {
  return { ...process.env, ...environment };
}

/**
 * Checks the engine arguments and the model's files of a load before anything is started.
 *
 * @param vllmVersion - the version of the installed vLLM
 * @throws {@link InvalidArgumentError}, {@link ModelNotFoundError}, {@link AdapterLoadError} for an adapter's folder that does
 *   not exist
 */
export function checkEngine(options: VllmModelOptions, vllmVersion: string): void {
  const environment = childEnvironment(options);
  const { path, engine } =
    options.engine === undefined
      ? readEngineArguments(locateModel(options.modelRepository, options.model))
      : { path: undefined, engine: options.engine };
  if (typeof engine["model"] !== "string" || engine["model"] === "") {
    const what = path === undefined ? "engine.model" : `${path}: the engine argument 'model'`;
    throw new InvalidArgumentError(
      `${what} must be the folder of the base model, or a GGUF file, got ${describe(engine["model"])}`,
      { hint: 'for example "./weights/llama-7b-hf" or "./model.gguf"' },
    );
  }
  // Another backend reads model.json by rules of its own.
  if (options.backend === undefined) checkEngineArguments(engine, { vllmVersion, environment, where: path });
  checkModelFolder(engine, environment);
  const loras = path === undefined ? options.loras : lorasBeside(path, engine);
  for (const [name, folder] of Object.entries(loras ?? {})) checkAdapterFolder(name, folder);
}

/** The adapters of a repository's multi_lora.json, if LoRA is on. The child says what is wrong with the file. */
function lorasBeside(path: string, engine: Readonly<Record<string, unknown>>): object | undefined {
  if (!/^true$/i.test(String(engine["enable_lora"]))) return undefined;
  try {
    return JSON.parse(readFileSync(join(dirname(path), "multi_lora.json"), "utf8")) as object;
  } catch {
    return undefined;
  }
}

/** The child checks what is in the folder (tritonode/lora/files.py). */
function checkAdapterFolder(name: string, folder: unknown): void {
  if (typeof folder !== "string" || folder === "" || existsSync(folder)) return;
  const path = resolve(folder);
  const near = didYouMean(basename(path), namesIn(dirname(path)));
  throw new AdapterLoadError(`adapter '${name}': there is no folder ${path}${near}`, {
    hint: adapterFolderHint(),
  });
}

export interface ArgumentCheck {
  /** The version of the vLLM that gets them; the arguments of another version than the known one are not checked. */
  readonly vllmVersion: string;
  /** The environment of the child. */
  readonly environment: NodeJS.ProcessEnv;
  /** What the message begins with: the file that holds the arguments. */
  readonly where?: string | undefined;
}

/**
 * Checks names and values of engine arguments before a child is started for them: seconds earlier than vLLM.
 *
 * @throws {@link InvalidArgumentError} naming the argument, its value and what it may be
 */
export function checkEngineArguments(
  engine: Readonly<Record<string, unknown>>,
  { vllmVersion: installed, environment, where }: ArgumentCheck,
): void {
  if (environment[ALLOW_VARIABLE] === "1" || installed !== vllmVersion) return;
  const prefix = where === undefined ? "" : `${where}: `;
  const names = Object.keys(argumentKinds);
  for (const [name, value] of Object.entries(engine)) {
    // JSON.stringify leaves undefined out.
    if (value === undefined) continue;
    if (!Object.hasOwn(argumentKinds, name)) {
      throw new InvalidArgumentError(
        `${prefix}vLLM ${vllmVersion} has no engine argument '${name}'${didYouMean(name, names)}`,
        { hint: `correct the name (if your vLLM has it, ${way})` },
      );
    }
    const allowed = argumentKinds[name] ?? [];
    if (allowed.includes("any") || allowed.some((kind) => isOf(kind, value))) continue;
    const choices = allowed.filter((kind) => kind.startsWith("=")).map((kind) => kind.slice(1));
    const near = typeof value === "string" ? nearest(value, choices) : undefined;
    throw new InvalidArgumentError(
      `${prefix}the engine argument '${name}' must be ${expectation(allowed, choices)}, got ${describe(value)}`,
      {
        hint: `${near === undefined ? "correct the value" : `did you mean ${JSON.stringify(near)}?`} (${way})`,
      },
    );
  }
}

function isOf(kind: string, value: unknown): boolean {
  if (kind.startsWith("=")) return String(value) === kind.slice(1);
  return kinds[kind]?.is(value) ?? true;
}

function expectation(allowed: readonly string[], choices: readonly string[]): string {
  const others = allowed.filter((kind) => !kind.startsWith("=")).map((kind) => kinds[kind]?.name ?? kind);
  const listed = choices.length === 0 ? [] : [`one of ${choices.join(", ")}`];
  return [...listed, ...others].join(" or ");
}
