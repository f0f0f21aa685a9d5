import { resolve } from "node:path";
import { describe } from "../common/describe";
import { checkLimit } from "../common/duration";
import { InvalidArgumentError } from "../errors";

/** An adapter's name, or its name and folder: then it is loaded first if the model does not serve it yet. */
export type AdapterChoice = string | { name: string; path: string };

/** Options of every request besides the fields of vLLM's own request. */
export interface CallOptions {
  /** The adapter to answer with; left out: the base model. */
  lora?: string | undefined;
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

/** The checked options of a call. `fields` are the fields of vLLM's own request, those in `extra` included. */
export interface CheckedOptions {
  readonly lora: { readonly name: string; readonly path?: string } | undefined;
  readonly signal: AbortSignal | undefined;
  readonly deadline: number | undefined;
  readonly fields: Record<string, unknown>;
}

const own = new Set(["lora", "signal", "deadline", "extra"]);

/**
 * Checks the options of any call.
 *
 * @param ours - names of this call's options besides those of {@link CallOptions}
 * @param paths - whether `lora` may have a path
 * @throws {@link InvalidArgumentError} naming the option
 */
export function checkOptions(
  options: unknown,
  { ours = [], paths = false }: { ours?: readonly string[]; paths?: boolean } = {},
): CheckedOptions {
  if (typeof options !== "object" || options === null) {
    throw new InvalidArgumentError(`options must be an object, got ${describe(options)}`);
  }
  const { lora, signal, deadline, extra } = options as Record<string, unknown>;
  const checked = {
    lora: checkLora(lora, paths),
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

function checkLora(lora: unknown, paths: boolean): CheckedOptions["lora"] {
  if (lora === undefined) return undefined;
  if (typeof lora === "string" && lora !== "") return { name: lora };
  if (paths && typeof lora === "object" && lora !== null) {
    const { name, path } = lora as { name?: unknown; path?: unknown };
    if (typeof name === "string" && name !== "" && typeof path === "string" && path !== "") {
      return { name, path: resolve(path) };
    }
  }
  const forms = paths ? "an adapter's name or { name, path }" : "an adapter's name";
  throw new InvalidArgumentError(`lora must be ${forms}, got ${describe(lora)}`);
}

/** Fields of vLLM's own request as JSON. @throws {@link InvalidArgumentError} naming what JSON can't carry. */
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
