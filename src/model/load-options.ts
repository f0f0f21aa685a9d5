import { describe } from "../common/describe";
import { checkLimit } from "../common/duration";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError } from "../errors";
import type { VllmModelOptions } from "./load";
import { checkSignal } from "./options";
import { toRestartOptions } from "./restart";

type Check = (name: string, value: unknown) => void;

/** Makes a check that throws unless the value is left out or passes `is`. */
function expected(what: string, is: (value: unknown) => boolean): Check {
  return (name, value) => {
    if (value === undefined || is(value)) return;
    throw new InvalidArgumentError(`${name} must be ${what}, got ${describe(value)}`);
  };
}

const isText = (value: unknown) => typeof value === "string" && value !== "" && !value.includes("\0");
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
const isFunction = (value: unknown) => typeof value === "function";

export const loadChecks: { readonly [Name in keyof Required<VllmModelOptions>]: Check } = {
  runtime: expected(
    "a path or a runtime of findRuntime",
    (value) =>
      isText(value) ||
      (isObject(value) && isText(value["directory"]) && isText(value["python"]) && isObject(value["triton"])),
  ),
  device: expected('"cpu" or "cuda"', (value) => value === "cpu" || value === "cuda"),
  backend: expected("the path of a folder with a model.py", isText),
  logger: expected(
    "an object with the functions debug, info, warn and error",
    (value) => isObject(value) && ["debug", "info", "warn", "error"].every((level) => isFunction(value[level])),
  ),
  onProgress: expected("a function", isFunction),
  signal: (_, value) => void checkSignal(value),
  timeout: checkLimit,
  restart: (_, value) => void toRestartOptions(value),
  onRestart: expected("a function", isFunction),
  prewarm: expected("true or false", (value) => typeof value === "boolean"),
  environment: checkEnvironment,
  modelRepository: expected("a path", isText),
  model: expected("a model's name", isText),
  engine: expected("an object", isObject),
  loras: expected(
    "an object of adapters' names and paths",
    (value) => isObject(value) && Object.values(value).every(isText),
  ),
};

function checkEnvironment(name: string, value: unknown): void {
  expected("an object of strings", isObject)(name, value);
  for (const [variable, text] of Object.entries(value ?? {})) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(variable)) {
      throw new InvalidArgumentError(`${name} has a name that no variable can have: ${describe(variable)}`);
    }
    expected("a string without NUL", (each) => typeof each === "string" && !each.includes("\0"))(
      `${name}.${variable}`,
      text,
    );
  }
}

/** @throws {@link InvalidArgumentError} naming the option of `VllmModel.load`. */
export function checkLoadOptions(options: VllmModelOptions): void {
  if (!isObject(options)) {
    throw new InvalidArgumentError(`VllmModel.load takes an object of options, got ${describe(options)}`);
  }
  const names = Object.keys(loadChecks);
  checkNames(
    "VllmModel.load",
    options,
    names,
    `vLLM's engine arguments go into \`engine\`; the options are ${names.join(", ")}`,
  );
  if ((options.modelRepository === undefined) === (options.engine === undefined)) {
    throw new InvalidArgumentError("pass either modelRepository or engine", {
      hint: 'VllmModel.load({ modelRepository: "./model_repository" }) or VllmModel.load({ engine: { model: "./weights" } })',
    });
  }
  if (options.loras !== undefined && options.engine === undefined) {
    throw new InvalidArgumentError("loras and modelRepository cannot be used together", {
      hint: "name the adapters in the repository's multi_lora.json, or pass engine instead of modelRepository",
    });
  }
  for (const [name, check] of Object.entries(loadChecks)) check(name, options[name as keyof VllmModelOptions]);
}
