import { checkNames } from "../common/unknown";
import type { EngineDiedError } from "../errors";
import type { ServerChild } from "./children";
import { ServerCore } from "./core";
import type { LoadModelOptions } from "./models";
import { resolveOptions, type TritonServerOptions } from "./options";
import { type InferenceRequest, requestNames } from "./request";
import type { ResponseStream } from "./stream";

/** Triton's view of a model in its repositories (`TRITONSERVER_ServerModelIndex`). */
export interface ModelIndexEntry {
  /** The model's name. */
  readonly name: string;
  /** The version that this entry is about; absent for a model that is not loaded. */
  readonly version?: string;
  /** `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`; absent for a model that was never loaded. */
  readonly state?: string;
  /** Why it is not ready, if Triton says so. */
  readonly reason?: string;
}

let create: (core: ServerCore) => TritonServer;

/**
 * NVIDIA Triton in this process. There is one for the whole process: later starts, from workers too, join it, and it
 * stops when the last of them is stopped.
 *
 * ```ts
 * await using server = await TritonServer.start({ modelRepositories: ["./model_repository"] });
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
  static async start(options: TritonServerOptions = {}): Promise<TritonServer> {
    return new TritonServer(await ServerCore.start(await resolveOptions(options)));
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

  /** The number of this object's running requests. */
  get runningRequests(): number {
    return this.#core.runningRequests;
  }

  /** The running Python children of the process's server. */
  get children(): ServerChild[] {
    return this.#core.children;
  }

  /** Calls `listener` when the child of a loaded model exits without having been told to. */
  onModelDied(listener: (model: string, error: EngineDiedError) => void): () => void {
    return this.#core.onModelDied(listener);
  }

  /** Whether Triton is up. */
  isLive(): Promise<boolean> {
    return this.#core.ask((addon) => addon.isLive());
  }

  /** Whether Triton and all loaded models accept requests. */
  async isReady(): Promise<boolean> {
    return (await this.#core.ask((addon) => addon.isReady())) && !this.#core.anyModelDead;
  }

  /** Whether the model accepts requests; false from the moment its child died, although Triton may still report it as ready. */
  isModelReady(name: string, version?: number): Promise<boolean> {
    return this.#core.isModelReady(name, version);
  }

  /** Triton's name, version and extensions. */
  async metadata(): Promise<{ name: string; version: string; extensions: string[] }> {
    return JSON.parse(await this.#core.ask((addon) => addon.metadata()));
  }

  /** A model's inputs and outputs, in the form of Triton's metadata protocol. */
  async modelMetadata(name: string, version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#core.ask((addon) => addon.modelMetadata(name, version)));
  }

  /** A model's configuration, including what Triton has completed. */
  async modelConfig(name: string, version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#core.ask((addon) => addon.modelConfig(name, version)));
  }

  /** Triton's counters of a model, or of all models if the name is empty. */
  async modelStatistics(name = "", version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#core.ask((addon) => addon.modelStatistics(name, version)));
  }

  /** The models of the registered repositories. A model that was loaded from files is listed only while it is loaded. */
  async repositoryIndex(options: { readyOnly?: boolean } = {}): Promise<ModelIndexEntry[]> {
    return JSON.parse(await this.#core.ask((addon) => addon.repositoryIndex(options.readyOnly ?? false)));
  }

  /** Metrics as Prometheus text, as Triton's metrics port would serve them. */
  metrics(): Promise<string> {
    return this.#core.ask((addon) => addon.metrics());
  }

  /** Registers a model repository. Its models can then be loaded by name. */
  registerRepository(path: string): Promise<void> {
    return this.#core.registerRepository(path);
  }

  /** Unregisters a model repository. Models that were loaded from it stay loaded. */
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

  /** Unloads a model and waits until its Python child is gone. Triton waits for the running requests first. */
  unloadModel(name: string, options: { dependents?: boolean } = {}): Promise<void> {
    return this.#core.unloadModel(name, options);
  }

  /**
   * Sends a request and returns the stream of its responses. Errors of the request itself (unknown model,
   * wrong tensors) reject when the stream is read.
   *
   * @throws {@link InvalidArgumentError} for a request that can't be sent at all, {@link DisposedError} after `stop`.
   */
  infer(request: InferenceRequest): ResponseStream {
    if (typeof request === "object" && request !== null) checkNames("infer", request, requestNames);
    return this.#core.infer(request);
  }

  /**
   * Cancels this object's requests and leaves the server; the last user to leave stops it. Repeated calls return the same
   * promise.
   */
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
