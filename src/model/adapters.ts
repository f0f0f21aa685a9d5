import { resolve } from "node:path";
import { describe } from "../common/describe";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError } from "../errors";
import { checkScale } from "./options";

/** Where an adapter's weights are: in a slot of the engine, in host memory, or only on disk. */
export type AdapterState = "slot" | "host" | "disk";

/** An adapter that a model serves. */
export interface AdapterInfo {
  /** The name that requests use. */
  readonly name: string;
  /** Increases by one with each `replace`. */
  readonly version: number;
  /** Its folder, absolute. */
  readonly path: string;
  /** A factor for its weights, in addition to its own `alpha / rank`; 1: as trained. */
  readonly scale: number;
  /** The largest rank of its modules. */
  readonly rank: number;
  /** LoRA's alpha, from `adapter_config.json`: its weights are multiplied by `alpha / rank`. */
  readonly alpha: number;
  /** The modules that it changes, e.g. `["q_proj", "v_proj"]`. */
  readonly targetModules: readonly string[];
  /** Bytes of its weights in memory. */
  readonly sizeBytes: number;
  /** Where its weights are now. */
  readonly state: AdapterState;
  /** Whether it is pinned, so that it is not evicted. */
  readonly pinned: boolean;
  /** Requests that use it now. */
  readonly running: number;
  /** Requests that it has answered since it was loaded. */
  readonly served: number;
  /** Requests on it that have failed since it was loaded. */
  readonly failed: number;
  /** Tokens generated with it. */
  readonly tokens: number;
  /** When a request last named it; undefined before the first. */
  readonly lastUsed: Date | undefined;
  /** When this version was loaded. */
  readonly loadedAt: Date;
}

/** What an adapter's folder contains, and whether this model could serve it. */
export interface AdapterInspection {
  /** The folder that was read, absolute. */
  readonly path: string;
  /** Whether `load` would accept it. */
  readonly loadable: boolean;
  /** The reasons why not. */
  readonly problems: readonly string[];
  /** The largest rank of its modules; absent if the files do not say. */
  readonly rank?: number;
  /** LoRA's alpha. */
  readonly alpha?: number;
  /** The modules that it changes. */
  readonly targetModules?: readonly string[];
  /** The base model that its training named. This is information only: it is not compared. */
  readonly baseModel?: string | undefined;
  /** Bytes of its weights. */
  readonly sizeBytes?: number;
  /** Type of its weights, e.g. `"bfloat16"`. */
  readonly dtype?: string;
}

/** Options of {@link Adapters.load} and {@link Adapters.replace}. */
export interface AdapterLoadOptions {
  /** Multiplies the adapter's weights; default 1. See {@link AdapterChoice}. */
  scale?: number | undefined;
}

type Control = (request: Record<string, unknown>) => Promise<unknown>;

/**
 * Manages the adapters of a running model: `model.adapters`. None of its calls pauses running requests.
 *
 * ```ts
 * await model.adapters.load("sql", "./adapters/sql");
 * for (const { name, state, served } of await model.adapters.list()) console.log(name, state, served);
 * await model.adapters.unload("sql");
 * ```
 */
export class Adapters {
  readonly #control: Control;

  /** @internal Made by a model: `model.adapters`. */
  constructor(control: Control) {
    this.#control = control;
  }

  /** Lists every adapter that the model serves. */
  async list(): Promise<AdapterInfo[]> {
    return ((await this.#control({ op: "adapters.list" })) as RawAdapter[]).map(toInfo);
  }

  /** Returns one adapter. @throws {@link AdapterNotFoundError} */
  async get(name: string): Promise<AdapterInfo> {
    return toInfo((await this.#control({ op: "adapters.get", name: text("name", name) })) as RawAdapter);
  }

  /**
   * Checks an adapter's files and loads it. Afterwards requests can name it.
   *
   * @param path - the adapter's folder; a relative path is relative to the working directory
   * @param options - `scale` multiplies its weights (0.5: half as strong); default 1
   * @throws {@link AdapterLoadError} saying what is wrong with the files; ERR_TRITON_ALREADY_EXISTS for a name in use
   */
  async load(name: string, path: string, options: AdapterLoadOptions = {}): Promise<AdapterInfo> {
    return this.#act("adapters.load", name, path, options);
  }

  /**
   * Replaces an adapter by another one under the same name. Running requests finish with the version they started with.
   *
   * @throws {@link AdapterNotFoundError}, {@link AdapterLoadError}
   */
  async replace(name: string, path: string, options: AdapterLoadOptions = {}): Promise<AdapterInfo> {
    return this.#act("adapters.replace", name, path, options);
  }

  /** Unloads an adapter. Requests that use it finish first. @throws {@link AdapterNotFoundError} */
  async unload(name: string): Promise<void> {
    await this.#act("adapters.unload", name);
  }

  /** Keeps an adapter's weights in a slot. @throws {@link AdapterNotFoundError} */
  async pin(name: string): Promise<AdapterInfo> {
    return this.#act("adapters.pin", name);
  }

  /** Lets a pinned adapter be evicted again. @throws {@link AdapterNotFoundError} */
  async unpin(name: string): Promise<AdapterInfo> {
    return this.#act("adapters.unpin", name);
  }

  /** Reads an adapter's folder without loading it, and says whether this model could serve it. */
  async inspect(path: string): Promise<AdapterInspection> {
    const raw = (await this.#control({ op: "adapters.inspect", path: resolve(text("path", path)) })) as RawInspection;
    const { target_modules, base_model, size_bytes, ...rest } = raw;
    return {
      ...rest,
      ...(target_modules === undefined ? {} : { targetModules: target_modules }),
      ...(base_model === undefined ? {} : { baseModel: base_model ?? undefined }),
      ...(size_bytes === undefined ? {} : { sizeBytes: size_bytes }),
    };
  }

  async #act(op: string, name: string, path?: string, options: AdapterLoadOptions = {}): Promise<AdapterInfo> {
    const request: Record<string, unknown> = { op, name: text("name", name) };
    checkNames(op, options, ["scale"]);
    if (op === "adapters.load" || op === "adapters.replace") request["path"] = resolve(text("path", path));
    if (options.scale !== undefined) request["scale"] = checkScale(options.scale);
    return toInfo((await this.#control(request)) as RawAdapter);
  }
}

interface RawAdapter {
  name: string;
  version: number;
  path: string;
  scale: number;
  rank: number;
  alpha: number;
  target_modules: string[];
  size_bytes: number;
  state: AdapterState;
  pinned: boolean;
  running: number;
  served: number;
  failed: number;
  tokens: number;
  last_used: number;
  loaded_at: number;
}

interface RawInspection {
  path: string;
  loadable: boolean;
  problems: string[];
  rank?: number;
  alpha?: number;
  target_modules?: string[];
  base_model?: string | null;
  size_bytes?: number;
  dtype?: string;
}

function toInfo(raw: RawAdapter): AdapterInfo {
  const { target_modules, size_bytes, last_used, loaded_at, ...rest } = raw;
  return {
    ...rest,
    targetModules: target_modules,
    sizeBytes: size_bytes,
    lastUsed: last_used === 0 ? undefined : new Date(last_used * 1000),
    loadedAt: new Date(loaded_at * 1000),
  };
}

function text(name: string, value: unknown): string {
  if (typeof value !== "string" || value === "") {
    throw new InvalidArgumentError(`the adapter's ${name} must be a non-empty string, got ${describe(value)}`);
  }
  return value;
}
