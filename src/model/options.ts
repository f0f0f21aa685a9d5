import { resolve } from "node:path";
import { describe } from "../common/describe";
import { checkLimit } from "../common/duration";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError } from "../errors";

/**
 * The adapter of a request: its name. With `path` (its folder) it is loaded first if the model does not serve it yet. `scale`
 * multiplies its weights (0.5: half as strong, 1: as trained, negative: the opposite effect).
 *
 * vLLM has no scale for a request, so a scaled adapter is a separate adapter, named `name*scale` (`sql*0.5`). It is loaded on its
 * first request from the same folder, takes a slot and host memory like any other, and is unloaded with the adapter that it was
 * made from. The 16 most recently used scales of an adapter stay loaded.
 */
export type AdapterChoice =
  | string
  | { readonly name: string; readonly path?: string | undefined; readonly scale?: number | undefined };

/** Options of every request besides the fields of vLLM's own request. */
export interface CallOptions {
  /** The adapter to use. Default: the base model. See {@link AdapterChoice}. */
  lora?: AdapterChoice | undefined;
  /** Aborting it cancels the request in Triton and in vLLM. */
  signal?: AbortSignal | undefined;
  /**
   * Milliseconds after which the request is cancelled and rejects with {@link DeadlineExceededError}; at most 2^31 - 1,
   * or `Infinity`.
   */
  deadline?: number | undefined;
  /** Further fields of vLLM's own request, under vLLM's names, that these types do not list. vLLM checks them. */
  extra?: Readonly<Record<string, unknown>> | undefined;
}

/** The checked options of a call. `fields` are the fields of vLLM's own request, including those in `extra`. */
export interface CheckedOptions {
  readonly lora: { readonly name: string; readonly path?: string; readonly scale?: number } | undefined;
  readonly signal: AbortSignal | undefined;
  readonly deadline: number | undefined;
  readonly fields: Record<string, unknown>;
}

const own = new Set(["lora", "signal", "deadline", "extra"]);

/**
 * Checks the options of any call.
 *
 * @param call - the call's name, for messages
 * @param ours - names of this call's options in addition to those of {@link CallOptions}
 * @param fields - the fields of vLLM's request that may be given directly (default: any, because the backend checks them)
 * @throws {@link InvalidArgumentError} naming the option
 */
export function checkOptions(
  options: unknown,
  { call, ours = [], fields }: { call?: string; ours?: readonly string[]; fields?: readonly string[] } = {},
): CheckedOptions {
  if (typeof options !== "object" || options === null) {
    throw new InvalidArgumentError(`options must be an object, got ${describe(options)}`);
  }
  const { lora, signal, deadline, extra } = options as Record<string, unknown>;
  if (fields !== undefined) {
    const hint = "vLLM's fields that the types do not list go into `extra`";
    checkNames(call ?? "this call", options, [...own, ...ours, ...fields], hint);
  }
  const checked = {
    lora: checkLora(lora),
    signal: checkSignal(signal),
    deadline: checkLimit("deadline", deadline),
    // Without a prototype: `__proto__` is a name like any other.
    fields: Object.create(null) as Record<string, unknown>,
  };
  for (const [name, value] of Object.entries(options)) {
    if (!own.has(name) && !ours.includes(name) && value !== undefined) checked.fields[name] = checkField(name, value);
  }
  if (extra === undefined) return checked;
  if (typeof extra !== "object" || extra === null || Array.isArray(extra)) {
    throw new InvalidArgumentError(`extra must be an object, got ${describe(extra)}`);
  }
  for (const [name, value] of Object.entries(extra)) {
    if (own.has(name) || ours.includes(name) || name in checked.fields) {
      throw new InvalidArgumentError(`extra holds '${name}', which is an option of its own`, {
        hint: `pass it directly: { ${name}: ... }`,
      });
    }
    if (value !== undefined) checked.fields[name] = checkField(name, value);
  }
  return checked;
}

/** @throws {@link InvalidArgumentError} */
export function checkSignal(signal: unknown): AbortSignal | undefined {
  if (signal === undefined || signal instanceof AbortSignal) return signal;
  throw new InvalidArgumentError(`signal must be an AbortSignal, got ${describe(signal)}`);
}

function checkField(name: string, value: unknown): unknown {
  // JSON.stringify would call a function of the name toJSON.
  if (typeof value === "function") throw new InvalidArgumentError(`the parameter '${name}' is a function`);
  return value;
}

/** @throws {@link InvalidArgumentError} */
export function checkLora(lora: unknown): CheckedOptions["lora"] {
  if (lora === undefined) return undefined;
  const choice = typeof lora === "string" ? { name: lora } : lora;
  if (typeof choice === "object" && choice !== null) {
    checkNames("lora", choice, ["name", "path", "scale"]);
    const { name, path, scale } = choice as { name?: unknown; path?: unknown; scale?: unknown };
    const given = path === undefined || (typeof path === "string" && path !== "");
    if (typeof name === "string" && name !== "" && given) {
      const folder = path === undefined ? {} : { path: resolve(path) };
      return { name, ...folder, ...(scale === undefined ? {} : { scale: checkScale(scale) }) };
    }
  }
  throw new InvalidArgumentError(`lora must be an adapter's name or { name, path, scale }, got ${describe(lora)}`);
}

/** @throws {@link InvalidArgumentError} */
export function checkScale(scale: unknown): number {
  if (typeof scale === "number" && Number.isFinite(scale) && scale !== 0) return scale;
  throw new InvalidArgumentError(`an adapter's scale must be a finite number other than 0, got ${describe(scale)}`, {
    hint: "leave out lora to answer with the base model",
  });
}

/** Writes fields of vLLM's own request as JSON. @throws {@link InvalidArgumentError} naming a value that JSON can't represent. */
export function fieldsToJson(fields: object, what = "parameter"): string {
  try {
    return JSON.stringify(fields, (name, value) => {
      if (typeof value === "number" && !Number.isFinite(value)) {
        throw new InvalidArgumentError(`the ${what} '${name}' is ${value}, which JSON cannot carry`);
      }
      if (typeof value === "function" || typeof value === "symbol" || typeof value === "bigint") {
        throw new InvalidArgumentError(`the ${what} '${name}' is a ${typeof value}`);
      }
      return value;
    });
  } catch (cause) {
    if (cause instanceof InvalidArgumentError) throw cause;
    throw new InvalidArgumentError(`the ${what}s cannot be written as JSON: ${(cause as Error).message}`, { cause });
  }
}
