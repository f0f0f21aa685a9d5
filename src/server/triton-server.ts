import { checkNames } from "../common/unknown";
import type { EngineDiedError } from "../errors";
import type { ServerChild } from "./children";
import { ServerCore } from "./core";
import type { LoadModelOptions } from "./models";
import type { TritonServerOptions } from "./options";
import { type InferenceRequest, requestNames } from "./request";
import type { ResponseStream } from "./stream";

/** Triton's view of a model in its repositories (`TRITONSERVER_ServerModelIndex`). */
export interface ModelIndexEntry {
  /** The model's name. */
  readonly name: string;
  /** The version that the line is about; absent for a model that is not loaded. */
  readonly version?: string;
  /** `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`; absent for a model that was never loaded. */
  readonly state?: string;
  /** Why it is not ready, where Triton says. */
  readonly reason?: string;
}

let create: (core: ServerCore) => TritonServer;

/**
 * NVIDIA Triton in this process. There is one for the whole process: further starts, from workers too, join it, and it
 * stops with the last one that stops.
 *
 * ```ts
 * await using server = await TritonServer.start({
 *   runtime: await findRuntime(),
 *   modelRepositories: ["./model_repository"],
 * });
 * await server.loadModel("add");
 * const inputs = [{ name: "INPUT0", datatype: "FP32", data: Float32Array.of(1, 2) }] as const;
 * const { outputs } = await server.infer({ model: "add", inputs }).response();
 * ```
 */
export class TritonServer implements AsyncDisposable {
  static {
    create = (core) => new TritonServer(core);
  }

  readonly #core: ServerCore;

  /**
   * Starts the process's server, or joins it.
   *
   * @throws {@link AddonLoadError} without a usable addon, {@link RuntimeMissingError} if the runtime's libraries can't be
   *   opened, {@link InvalidArgumentError} for a bad option or if another runtime is in use, {@link TritonServerError}.
   */
  static async start(options: TritonServerOptions): Promise<TritonServer> {
    return new TritonServer(await ServerCore.start(options));
  }

  private constructor(core: ServerCore) {
    this.#core = core;
  }

  /** The server's private directory, for tests and for files of a backend. */
  get privateDirectory(): string {
    return this.#core.privateDirectory;
  }

  /** Prefix of the names of this server's regions in /dev/shm. */
  get sharedMemoryPrefix(): string {
    return this.#core.sharedMemoryPrefix;
  }

  /** Requests of this object that run. */
  get runningRequests(): number {
    return this.#core.runningRequests;
  }

  /** The Python children that run now, of the whole process's server. */
  get children(): ServerChild[] {
    return this.#core.children;
  }

  /** Calls `listener` when the child of a loaded model ends without having been told to. */
  onModelDied(listener: (model: string, error: EngineDiedError) => void): () => void {
    return this.#core.onModelDied(listener);
  }

  /** Whether Triton is up. */
  isLive(): Promise<boolean> {
    return this.#core.ask((addon) => addon.isLive());
  }

  /** Whether Triton and all loaded models take requests. */
  async isReady(): Promise<boolean> {
    return (await this.#core.ask((addon) => addon.isReady())) && !this.#core.anyModelDead;
  }

  /** Whether the model takes requests; false from the moment its child died, whatever Triton still believes. */
  isModelReady(name: string, version?: number): Promise<boolean> {
    return this.#core.isModelReady(name, version);
  }

  /** Triton's name, version and extensions. */
  async metadata(): Promise<{ name: string; version: string; extensions: string[] }> {
    return JSON.parse(await this.#core.ask((addon) => addon.metadata()));
  }

  /** A model's inputs and outputs, as Triton's metadata protocol has them. */
  async modelMetadata(name: string, version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#core.ask((addon) => addon.modelMetadata(name, version)));
  }

  /** A model's configuration, what Triton completed included. */
  async modelConfig(name: string, version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#core.ask((addon) => addon.modelConfig(name, version)));
  }

  /** Triton's counters of a model; of all models with an empty name. */
  async modelStatistics(name = "", version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#core.ask((addon) => addon.modelStatistics(name, version)));
  }

  /** Models of the registered repositories; one that was loaded from files is among them only while it is loaded. */
  async repositoryIndex(options: { readyOnly?: boolean } = {}): Promise<ModelIndexEntry[]> {
    return JSON.parse(await this.#core.ask((addon) => addon.repositoryIndex(options.readyOnly ?? false)));
  }

  /** Prometheus text, as Triton's metrics port would serve it. */
  metrics(): Promise<string> {
    return this.#core.ask((addon) => addon.metrics());
  }

  /** Adds a model repository's folder; its models can be loaded by name. */
  registerRepository(path: string): Promise<void> {
    return this.#core.registerRepository(path);
  }

  /** Takes a folder away again; models that are loaded from it stay. */
  unregisterRepository(path: string): Promise<void> {
    return this.#core.unregisterRepository(path);
  }

  /**
   * Loads a model, or loads it again if its files or its configuration changed, and waits until it is ready.
   *
   * @throws {@link ModelLoadError} with the backend's reason; `ERR_STUB_START` if its Python child ended before it was up.
   */
  loadModel(name: string, options: LoadModelOptions = {}): Promise<void> {
    return this.#core.loadModel(name, options);
  }

  /** Unloads a model and waits until its Python child is gone. Requests that run are waited for by Triton. */
  unloadModel(name: string, options: { dependents?: boolean } = {}): Promise<void> {
    return this.#core.unloadModel(name, options);
  }

  /**
   * Sends a request. Its responses come as the returned stream is read; errors of the request itself (unknown model,
   * wrong tensors) reject there too.
   *
   * @throws {@link InvalidArgumentError} for a request that can't be sent at all, {@link DisposedError} after `stop`.
   */
  infer(request: InferenceRequest): ResponseStream {
    if (typeof request === "object" && request !== null) checkNames("infer", request, requestNames);
    return this.#core.infer(request);
  }

  /** Ends this object's requests and leaves the server; the last one to leave stops it. Repeated calls are one call. */
  stop(): Promise<void> {
    return this.#core.stop();
  }

  /** `stop()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}

/** The public face of a core that a model has started. Internal. */
export function toTritonServer(core: ServerCore): TritonServer {
  return create(core);
}
