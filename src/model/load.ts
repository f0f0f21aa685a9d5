import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { InvalidArgumentError } from "../errors";
import { packageRoot } from "../package-root";
import { findRuntime } from "../runtime";
import type { Runtime } from "../runtime/runtime";
import type { Logger } from "../server";
import type { AdapterEvent } from "./events";
import type { EngineArguments } from "./repository";
import type { RestartEvent, RestartOptions } from "./restart";

/** Progress of loading a model. */
export interface LoadProgress {
  /**
   * In this order: `start` (the server and its child process), `import` (Python imports vLLM), `check-adapters`,
   * `load-model` (weights and KV cache), `load-adapter` (once for each), `warm-up`, `ready`.
   */
  readonly phase: "start" | "import" | "check-adapters" | "load-model" | "load-adapter" | "warm-up" | "ready";
  /** The adapter of `load-adapter`. */
  readonly adapter?: string;
  /** Finished steps of the phase, and all of its steps (`total`), if they are known. */
  readonly done?: number;
  /** See `done`. */
  readonly total?: number;
  /** Milliseconds since the load began. */
  readonly elapsed: number;
  /**
   * How much of the load is done, 0 to 1; never less than before. Between two steps it grows with time, up to
   * `(elapsed + milliseconds since this step) / (elapsed + remaining)`.
   */
  readonly fraction: number;
  /**
   * Milliseconds that remain, estimated from the last load of this model with `onProgress` on this machine; absent if there was
   * none.
   */
  readonly remaining?: number;
}

/** Options of {@link VllmModel.prewarm}. */
export interface PrewarmOptions {
  /** The runtime's folder, or a runtime of `findRuntime`; by default the one that `npx tritonode setup` made. */
  runtime?: string | Runtime | undefined;
  /** The device of the engine. Default: `"cuda"` if a runtime for CUDA is installed, else `"cpu"`. */
  device?: "cpu" | "cuda" | undefined;
  /**
   * The folder of another vLLM backend (`model.py`) to serve the model with, unmodified: in NVIDIA's container
   * `/opt/tritonserver/backends/vllm`. It has `generate` and `stream`; other calls reject with {@link BackendFeatureError}.
   * All models of a process use the same backend.
   */
  backend?: string | undefined;
  /** Gets the log of Triton, vLLM and the child process, for example `console`. By default nothing is logged. */
  logger?: Logger | undefined;
  /** Aborting it cancels loading and ends the child process. */
  signal?: AbortSignal | undefined;
  /** Maximum time for it in milliseconds. Default: 10 minutes. */
  timeout?: number | undefined;
  /** Environment variables for the child only (for example `OMP_NUM_THREADS`); those of this process do not change. */
  environment?: Readonly<Record<string, string>> | undefined;
}

interface CommonOptions extends PrewarmOptions {
  /** Gets each step of the load. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /**
   * Whether to keep a warm child (see {@link VllmModel.prewarm}) while this model is loaded, for restarts and further models.
   * The first one is started after the load. Default: false.
   */
  prewarm?: boolean | undefined;
  /**
   * What happens when the engine's process dies. Its running requests are lost in any case ({@link EngineDiedError}).
   * `"never"` (default): the model is not loaded again. `"on-failure"`: it is loaded again, with the adapters that were loaded at
   * run time. An object also sets delays and the number of attempts.
   */
  restart?: RestartOptions["policy"] | RestartOptions | undefined;
  /** Gets each step of a restart. */
  onRestart?: ((event: RestartEvent) => void) | undefined;
}

/** Options for a model repository, with the layout of Triton's vLLM backend. */
export interface RepositoryOptions extends CommonOptions {
  /** The folder that holds `<model>/1/model.json`. */
  modelRepository: string;
  /** The model's name, if the repository has more than one. */
  model?: string | undefined;
  /** Belongs to {@link ObjectOptions}. */
  engine?: undefined;
  /** Belongs to {@link ObjectOptions}. */
  loras?: undefined;
}

/** Options for a model without a repository: `model.json` and `multi_lora.json` as objects. Relative paths are relative to the
 * working directory. */
export interface ObjectOptions extends CommonOptions {
  /** The content of `model.json`: vLLM's engine arguments. */
  engine: EngineArguments;
  /** The content of `multi_lora.json`: adapters' folders by name. Sets `enable_lora` to true. */
  loras?: Record<string, string> | undefined;
  /** The model's name within the process. Default: `vllm_model`. */
  model?: string | undefined;
  /** Belongs to {@link RepositoryOptions}. */
  modelRepository?: undefined;
}

/** Options of {@link VllmModel.load}: a model repository, or the content of its files as objects. */
export type VllmModelOptions = RepositoryOptions | ObjectOptions;

/** The content of a progress line of the backend. */
export interface ProgressLine extends Partial<AdapterEvent> {
  readonly model: string;
  /** `adapter`: not progress, but a change to the adapters that are served. */
  readonly phase: LoadProgress["phase"] | "adapter";
  readonly done?: number;
  readonly total?: number;
  /** With `import`: the child has already imported everything. */
  readonly warm?: boolean;
}

const progressPrefix = "@tritonode ";
/** A progress line of the backend (`tritonode/triton/progress.py`), or undefined for any other line. */
export function parseProgress(line: string): ProgressLine | undefined {
  if (!line.startsWith(progressPrefix)) return undefined;
  try {
    return JSON.parse(line.slice(progressPrefix.length)) as ProgressLine;
  } catch {
    return undefined;
  }
}

/**
 * The logger for the server: filters out the progress lines of one model's backend and passes the other lines on.
 *
 * @param onProgress - gets what a progress line says
 */
export function loggerFor(model: string, logger: Logger | undefined, onProgress: (line: ProgressLine) => void): Logger {
  const pass = (level: keyof Logger) => (message: string) => {
    if (!message.startsWith(progressPrefix)) {
      logger?.[level](message);
      return;
    }
    const line = parseProgress(message);
    if (line?.model === model) onProgress(line);
  };
  return { debug: pass("debug"), info: pass("info"), warn: pass("warn"), error: pass("error") };
}

export const defaultLoadTimeout = 600_000;

/** The runtime of the options, or the installed one. @throws {@link RuntimeMissingError} */
export async function resolveRuntime({ runtime, device }: PrewarmOptions): Promise<Runtime> {
  if (typeof runtime === "object" && runtime !== null) return runtime;
  return findRuntime({
    ...(runtime === undefined ? {} : { directory: resolve(runtime) }),
    ...(device === undefined ? {} : { device }),
  });
}

/** The folder of the backend that serves the model. @throws {@link InvalidArgumentError} if it is not a backend's folder. */
export function backendFolder(named: string | undefined): string {
  if (named === undefined) return join(packageRoot(), "backends", "vllm");
  const folder = resolve(named);
  if (existsSync(join(folder, "model.py"))) return folder;
  throw new InvalidArgumentError(
    `backend must be the folder of a vLLM backend: there is no ${join(folder, "model.py")}`,
    {
      hint: "in NVIDIA's container it is /opt/tritonserver/backends/vllm",
    },
  );
}
