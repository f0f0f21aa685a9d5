import { join } from "node:path";
import { describe } from "../common/describe";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError } from "../errors";
import type { NativeStartOptions } from "../native/binding";
import { findRuntime } from "../runtime/find/find";
import type { Runtime } from "../runtime/runtime";
import type { Workspace } from "../transport/workspace";
import type { Logger } from "./logger";

/**
 * Options of {@link TritonServer.start}. If the process's server is running already, it must have been started with the same
 * options.
 */
export interface TritonServerOptions {
  /** The Triton and the Python to use; default: the result of {@link findRuntime}. */
  readonly runtime?: Runtime | undefined;
  /** Receives the lines of Triton's log and of its children. By default nothing is logged. */
  readonly logger?: Logger | undefined;
  /** Triton's verbose level, 0 (default) to 4 and more. It applies to the whole process: the first start decides. */
  readonly logVerbose?: number | undefined;
  /** Model repositories: folders of models. More can be registered later. */
  readonly modelRepositories?: readonly string[] | undefined;
  /** Python-based backends by name: folders that hold a `model.py`. */
  readonly backends?: Readonly<Record<string, string>> | undefined;
  /** Environment variables of the Python children, in addition to the process's own; undefined removes a variable. */
  readonly childEnvironment?: Readonly<Record<string, string | undefined>> | undefined;
  /** Further settings: backend name → setting → value (`--backend-config` of tritonserver). */
  readonly backendConfig?: Readonly<Record<string, Readonly<Record<string, string>>>> | undefined;
  /** Triton's `server-id`, in its metadata and metrics. */
  readonly serverId?: string | undefined;
  /** Seconds that `stop` waits for models to unload. Default 30. */
  readonly exitTimeout?: number | undefined;
  /** Models that load at the same time. Default 2. */
  readonly modelLoadThreads?: number | undefined;
  /**
   * Pinned host memory for transfers to a GPU, in bytes. Default 0, because allocating it creates a CUDA context in this
   * process, and a vLLM model's tensors stay in host memory.
   */
  readonly pinnedMemoryPoolBytes?: number | undefined;
  /** CUDA memory pools for tensors, in bytes for each GPU. Default: none, for the same reason. */
  readonly cudaMemoryPoolBytes?: readonly number[] | undefined;
  /** Collect metrics. Default true. */
  readonly metrics?: boolean | undefined;
  /** Collect the GPU's metrics. Default true with CUDA. */
  readonly gpuMetrics?: boolean | undefined;
  /** Collect the CPU's metrics. Default false. */
  readonly cpuMetrics?: boolean | undefined;
  /** Milliseconds between two collections of GPU and CPU metrics. Default 2000. */
  readonly metricsInterval?: number | undefined;
  /** Initial size of the shared memory between Triton and each Python model, in bytes. Default 1 MiB; it grows when needed. */
  readonly sharedMemoryBytes?: number | undefined;
  /** Seconds that a Python model may take to shut down before it is killed. Default 30. */
  readonly stubTimeout?: number | undefined;
}

const optionNames = Object.keys({
  runtime: true,
  logger: true,
  logVerbose: true,
  modelRepositories: true,
  backends: true,
  childEnvironment: true,
  backendConfig: true,
  serverId: true,
  exitTimeout: true,
  modelLoadThreads: true,
  pinnedMemoryPoolBytes: true,
  cudaMemoryPoolBytes: true,
  metrics: true,
  gpuMetrics: true,
  cpuMetrics: true,
  metricsInterval: true,
  sharedMemoryBytes: true,
  stubTimeout: true,
} satisfies Record<keyof TritonServerOptions, true>);

/** The options with their runtime found. */
export interface ResolvedServerOptions extends TritonServerOptions {
  readonly runtime: Runtime;
}

/**
 * Checks the names of the options, and finds the runtime where none is given.
 *
 * @throws {@link InvalidArgumentError} naming the option; {@link RuntimeMissingError}
 */
export async function resolveOptions(options: TritonServerOptions): Promise<ResolvedServerOptions> {
  checkNames("TritonServer.start", options, optionNames);
  const runtime: unknown = options.runtime ?? (await findRuntime());
  if (typeof runtime !== "object" || runtime === null || !("triton" in runtime && "directory" in runtime)) {
    throw new InvalidArgumentError(`runtime must be what findRuntime resolves with, not ${describe(runtime)}`, {
      hint: "for a runtime in another folder: runtime: await findRuntime({ directory })",
    });
  }
  return { ...options, runtime: runtime as Runtime };
}

/** What a further environment (thread) of the process has to know about the running server. */
export interface ServerDescription {
  /** Its private folder. */
  readonly directory: string;
  /** The prefix of its shared memory's names. */
  readonly shmPrefix: string;
  /** The runtime's folder. */
  readonly runtime: string;
  /** The environment variables that were set for its children, as sorted pairs. */
  readonly environment: string;
}

/** The children's environment as a text that can be compared. */
export function environmentKey(environment: TritonServerOptions["childEnvironment"]): string {
  return JSON.stringify(Object.entries(environment ?? {}).sort(([a], [b]) => (a < b ? -1 : 1)));
}

function integer(options: TritonServerOptions, name: keyof TritonServerOptions, fallback: number, max: number): number {
  const value = options[name] ?? fallback;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 0 || value > max) {
    throw new InvalidArgumentError(`${name} must be an integer from 0 to ${max}, not ${describe(value)}`);
  }
  return value;
}

/** More GPUs than one machine has. */
const GPU_COUNT = 64;

/**
 * A pool for every GPU, of size 0 unless the caller sets one. Triton makes one of 64 MiB, and a CUDA context with it, on each GPU
 * that has no entry (core, src/server.cc, `InferenceServer::Init`).
 */
function memoryPools(asked: readonly number[]): number[] {
  return Array.from({ length: Math.max(GPU_COUNT, asked.length) }, (_, gpu) => asked[gpu] ?? 0);
}

/** @throws {@link InvalidArgumentError} naming the option. */
export function toNativeOptions(options: ResolvedServerOptions, workspace: Workspace): NativeStartOptions {
  const { runtime } = options;
  const cuda = runtime.device === "cuda";
  const maxSeconds = 24 * 3600;
  const description: ServerDescription = {
    directory: workspace.directory,
    shmPrefix: workspace.shmPrefix,
    runtime: runtime.directory,
    environment: environmentKey(options.childEnvironment),
  };
  // All Python-based backends read these settings under the Python backend's name, not under their own.
  const python: Record<string, string> = {
    "shm-region-prefix-name": workspace.shmPrefix,
    "shm-default-byte-size": String(integer(options, "sharedMemoryBytes", 1 << 20, 2 ** 40)),
    "stub-timeout-seconds": String(integer(options, "stubTimeout", 30, maxSeconds)),
    // Triton's default is 32 threads for each model instance.
    "thread-pool-size": "4",
    ...options.backendConfig?.python,
  };
  const backendConfig: [string, string, string][] = [];
  for (const [backend, settings] of Object.entries({ ...options.backendConfig, python })) {
    for (const [setting, value] of Object.entries(settings)) backendConfig.push([backend, setting, value]);
  }
  return {
    library: runtime.triton.library,
    dependencyDirectory: runtime.triton.dependencyDirectory,
    privateDirectory: workspace.directory,
    shmPrefix: workspace.shmPrefix,
    pythonBackend: join(workspace.backends, "python", "libtriton_python.so"),
    repairsOff: (process.env["TRITONODE_REPAIRS_OFF"] ?? "").split(",").filter((name) => name !== ""),
    description: JSON.stringify(description),
    serverId: options.serverId ?? "tritonode",
    backendDirectory: workspace.backends,
    modelRepositories: [workspace.ownRepository],
    backendConfig,
    logInfo: true,
    logWarn: true,
    logError: true,
    logVerbose: integer(options, "logVerbose", 0, 100),
    exitTimeoutSeconds: integer(options, "exitTimeout", 30, maxSeconds),
    bufferManagerThreads: 0,
    modelLoadThreads: integer(options, "modelLoadThreads", 2, 1024),
    pinnedMemoryPoolBytes: integer(options, "pinnedMemoryPoolBytes", 0, 2 ** 40),
    cudaMemoryPoolBytes: memoryPools(options.cudaMemoryPoolBytes ?? []),
    minComputeCapability: 6,
    strictReadiness: true,
    metrics: options.metrics ?? true,
    gpuMetrics: options.gpuMetrics ?? cuda,
    cpuMetrics: options.cpuMetrics ?? false,
    metricsIntervalMs: integer(options, "metricsInterval", 2000, 2 ** 31 - 1),
  };
}
