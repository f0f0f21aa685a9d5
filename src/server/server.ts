import { randomUUID } from "node:crypto";
import { callback } from "../common/callbacks";
import { checkLimit } from "../common/duration";
import { DisposedError, type EngineDiedError, InvalidArgumentError, RequestCancelledError } from "../errors";
import { Channel } from "../transport/channel";
import { fromNative } from "../transport/failure";
import { Shared } from "../transport/shared";
import { sweep } from "../transport/sweep";
import { temporaryDirectory, Workspace } from "../transport/workspace";
import { Children, type ServerChild } from "./children";
import { logTo } from "./logger";
import { type LoadModelOptions, Models } from "./models";
import { environmentKey, type ServerDescription, type TritonServerOptions, toNativeOptions } from "./options";
import { type InferenceRequest, toNativeRequest } from "./request";
import { type ResponseStream, Responses, StreamState } from "./stream";

/** Triton's view of a model in its repositories (`TRITONSERVER_ServerModelIndex`). */
export interface ModelIndexEntry {
  readonly name: string;
  readonly version?: string;
  readonly state?: string;
  readonly reason?: string;
}

/** Whether the server is gone in spite of an error of its release: everything but the lack of a thread to do it on. */
function hasStopped(error: unknown): boolean {
  return (error as { code?: unknown }).code !== "SYSTEM";
}

interface Running {
  readonly model: string;
  readonly call: number;
  readonly state: StreamState;
  /** When it was sent, on the clock of `performance.now()`. */
  readonly since: number;
}

/**
 * NVIDIA Triton in this process. There is one for the whole process: further starts, from workers too, join it, and it
 * stops with the last one that stops.
 */
export class TritonServer {
  /** What the environments of this process share beside the server itself. */
  readonly shared: Shared;
  readonly #channel: Channel;
  readonly #workspace: Workspace;
  readonly #children: Children;
  readonly #stopLog: () => void;
  readonly #running = new Map<number, Running>();
  /** Requests that are open as long as their model is used: nobody waits for their end. */
  readonly #background = new Map<number, Running>();
  readonly #models: Models;
  readonly #diedListeners = new Set<(model: string, error: EngineDiedError) => void>();
  #stopped: Promise<void> | undefined;

  /**
   * Starts the process's server, or joins it.
   *
   * @throws {@link AddonLoadError} without a usable addon, {@link RuntimeMissingError} if the runtime's libraries can't be
   *   opened, {@link InvalidArgumentError} for a bad option or if another runtime is in use, {@link TritonServerError}.
   */
  static async start(options: TritonServerOptions): Promise<TritonServer> {
    const channel = Channel.get();
    const { addon } = channel;
    const found = await addon.acquire().catch((error: unknown) => Promise.reject(fromNative(error)));
    let workspace: Workspace | undefined;
    let started = found !== undefined;
    // Subscribed before the start: the log of a start that fails is the one that is wanted most.
    const logger = options.logger;
    const stopLog = logger === undefined ? () => {} : channel.onLog((line) => logTo(logger, line));
    const children = new Children(channel);
    try {
      if (found === undefined) {
        sweep(addon, temporaryDirectory());
        workspace = Workspace.create({
          runtime: options.runtime,
          backends: options.backends ?? {},
          environment: options.childEnvironment ?? {},
        });
        await addon.start(toNativeOptions(options, workspace));
        started = true;
      } else {
        const description = JSON.parse(found) as ServerDescription;
        if (description.runtime !== options.runtime.directory) {
          throw new InvalidArgumentError(
            `this process's server runs on the runtime in ${description.runtime}, not on ${options.runtime.directory}`,
            { hint: "stop it first, or use the same runtime in every thread" },
          );
        }
        // Silently serving with other settings than asked for would be found late.
        const { childEnvironment } = options;
        if (childEnvironment !== undefined && environmentKey(childEnvironment) !== description.environment) {
          throw new InvalidArgumentError(
            "this process's server was started with another environment for its children",
            {
              hint: "give all models of a process the same environment, or set it on the first one only",
            },
          );
        }
        workspace = Workspace.open(description.directory, description.shmPrefix);
        workspace.addBackends(options.backends ?? {});
      }
      const server = new TritonServer(channel, workspace, children, stopLog);
      for (const path of options.modelRepositories ?? []) await server.registerRepository(path);
      return server;
    } catch (error) {
      const stopped = await addon.release().catch(hasStopped);
      // Once the server runs, others may have joined it.
      if (stopped || !started) workspace?.remove();
      children.close();
      stopLog();
      throw fromNative(error);
    }
  }

  private constructor(channel: Channel, workspace: Workspace, children: Children, stopLog: () => void) {
    this.#channel = channel;
    this.#workspace = workspace;
    this.#children = children;
    this.#stopLog = stopLog;
    this.shared = new Shared(channel.addon);
    channel.join();
    this.#models = new Models(channel.addon, workspace, children, {
      died: (model, error) => this.#modelDied(model, error),
      replaced: (model, error, since) => this.#failOlder(model, error, since),
    });
  }

  /** The server's private directory: for tests and for what a backend wants to place there. */
  get privateDirectory(): string {
    return this.#workspace.directory;
  }

  /** Prefix of the names of this server's regions in /dev/shm. */
  get sharedMemoryPrefix(): string {
    return this.#workspace.shmPrefix;
  }

  /** Requests of this object that run. */
  get runningRequests(): number {
    return this.#running.size;
  }

  /** Ends every request of this object that runs; each rejects with `reason`. */
  cancelAll(reason: Error): void {
    for (const { state } of [...this.#running.values()]) state.fail(reason);
  }

  /** Resolves when no request of this object runs. */
  async drained(): Promise<void> {
    while (this.#running.size > 0) {
      await Promise.allSettled([...this.#running.values()].map(({ state }) => state.finished));
    }
  }

  /** The Python children that run now, of the whole process's server. */
  get children(): ServerChild[] {
    return this.#children.running;
  }

  /** Calls `listener` when the child of a loaded model ends without having been told to. */
  onModelDied(listener: (model: string, error: EngineDiedError) => void): () => void {
    this.#diedListeners.add(listener);
    return () => this.#diedListeners.delete(listener);
  }

  async #ask<T>(question: (addon: Channel["addon"]) => Promise<T>): Promise<T> {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    try {
      return await question(this.#channel.addon);
    } catch (error) {
      throw fromNative(error);
    }
  }

  isLive(): Promise<boolean> {
    return this.#ask((addon) => addon.isLive());
  }

  async isReady(): Promise<boolean> {
    return (await this.#ask((addon) => addon.isReady())) && !this.#models.anyDead;
  }

  /** Whether the model takes requests; false from the moment its child died, whatever Triton still believes. */
  async isModelReady(name: string, version?: number): Promise<boolean> {
    return this.#models.death(name) === undefined && (await this.#ask((addon) => addon.isModelReady(name, version)));
  }

  /** Triton's name, version and extensions. */
  async metadata(): Promise<{ name: string; version: string; extensions: string[] }> {
    return JSON.parse(await this.#ask((addon) => addon.metadata()));
  }

  async modelMetadata(name: string, version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#ask((addon) => addon.modelMetadata(name, version)));
  }

  async modelConfig(name: string, version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#ask((addon) => addon.modelConfig(name, version)));
  }

  /** Triton's counters of a model; of all models with an empty name. */
  async modelStatistics(name = "", version?: number): Promise<Record<string, unknown>> {
    return JSON.parse(await this.#ask((addon) => addon.modelStatistics(name, version)));
  }

  /** Models of the registered repositories; one that was loaded from files is among them only while it is loaded. */
  async repositoryIndex(options: { readyOnly?: boolean } = {}): Promise<ModelIndexEntry[]> {
    return JSON.parse(await this.#ask((addon) => addon.repositoryIndex(options.readyOnly ?? false)));
  }

  /** Prometheus text, as Triton's metrics port would serve it. */
  metrics(): Promise<string> {
    return this.#ask((addon) => addon.metrics());
  }

  registerRepository(path: string): Promise<void> {
    return this.#ask((addon) => addon.registerRepository(this.#workspace.repository(path)));
  }

  unregisterRepository(path: string): Promise<void> {
    return this.#ask((addon) => addon.unregisterRepository(this.#workspace.repository(path)));
  }

  /**
   * Registers a repository together with whoever in this process uses it already, this environment or another.
   *
   * @returns a function that leaves it; the last one to leave unregisters it
   */
  async shareRepository(path: string): Promise<() => Promise<void>> {
    const link = this.#workspace.repository(path);
    const name = `repository/${link}`;
    if ((await this.shared.acquire(name, link)) === undefined) {
      try {
        await this.#ask((addon) => addon.registerRepository(link));
      } catch (error) {
        this.shared.settle(name);
        throw error;
      }
      this.shared.settle(name, link);
    }
    return async () => {
      if (!(await this.shared.release(name))) return;
      try {
        await this.#ask((addon) => addon.unregisterRepository(link));
      } finally {
        this.shared.settle(name);
      }
    };
  }

  /**
   * Loads a model, or loads it again if its files or its configuration changed, and waits until it is ready.
   *
   * @throws {@link ModelLoadError} with the backend's reason; `ERR_STUB_START` if its Python child ended before it was up.
   */
  async loadModel(name: string, options: LoadModelOptions = {}): Promise<void> {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    return this.#models.load(name, options);
  }

  /** Unloads a model and waits until its Python child is gone. Requests that run are waited for by Triton. */
  async unloadModel(name: string, options: { dependents?: boolean } = {}): Promise<void> {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    return this.#models.unload(name, options);
  }

  /**
   * Sends a request. Its responses come as the returned stream is read; errors of the request itself (unknown model,
   * wrong tensors) reject there too.
   *
   * @throws {@link InvalidArgumentError} for a request that can't be sent at all, {@link DisposedError} after `stop`.
   */
  infer(request: InferenceRequest): ResponseStream {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    const id = request?.id ?? randomUUID();
    const native = toNativeRequest(request, id);
    const state = new StreamState({
      id,
      model: request.model,
      signal: request.signal,
      deadline: checkLimit("deadline", request.deadline),
      onResponse: request.onResponse,
      merge: request.merge,
      delivered: request.deliver !== undefined,
      maxQueuedResponses: request.maxQueuedResponses ?? 65_536,
    });
    const stream = new Responses(state, request.onResponse === undefined);
    const dead = this.#models.death(request.model);
    if (dead !== undefined) {
      state.fail(dead);
      return stream;
    }
    if (request.signal?.aborted) {
      state.fail(new RequestCancelledError("the request was aborted by its signal", { cause: request.signal.reason }));
      return stream;
    }
    let call: number;
    try {
      call = this.#channel.addon.infer(native);
    } catch (error) {
      state.fail(fromNative(error));
      return stream;
    }
    const running = { model: request.model, call, state, since: performance.now() };
    const list = request.background ? this.#background : this.#running;
    list.set(call, running);
    const endDelivery = this.#deliver(request, state);
    state.onEnd(() => {
      list.delete(call);
      endDelivery?.();
    });
    this.#channel.addCall(call, state);
    state.begin(() => {
      this.#channel.addon.cancel(call);
      const { onCancel } = request;
      if (onCancel !== undefined) callback("onCancel", onCancel, onCancel);
    });
    return stream;
  }

  /** Hands the stream to whoever brings its responses. Triton may end the request before the last of them is here. */
  #deliver({ deliver }: InferenceRequest, state: StreamState): (() => void) | undefined {
    if (deliver === undefined) return undefined;
    const end = deliver(state);
    this.#channel.addon.hold();
    return () => {
      this.#channel.addon.unhold();
      end();
    };
  }

  /** Every request of this object that Triton has, as they are now. */
  get #open(): Running[] {
    return [...this.#running.values(), ...this.#background.values()];
  }

  #modelDied(model: string, error: EngineDiedError): void {
    for (const running of this.#open) {
      if (running.model === model) running.state.fail(error);
    }
    this.#channel.abandonCalls(model);
    for (const listener of this.#diedListeners) callback("onModelDied", listener, () => listener(model, error));
  }

  /** Ends what was sent to a child that is gone before its successor started; as a rule there is nothing. */
  #failOlder(model: string, error: EngineDiedError, since: number): void {
    const lost = this.#open.filter((running) => running.model === model && running.since < since);
    if (lost.length === 0) return;
    this.#channel.addon.noteChildDied();
    for (const { state } of lost) state.fail(error);
    this.#channel.abandonCalls(model, new Set(lost.map(({ call }) => call)));
  }

  /** Ends this object's requests and leaves the server; the last one to leave stops it. Repeated calls are one call. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#models.close();
    const reason = new RequestCancelledError("the server was stopped");
    for (const { state } of this.#open) state.fail(reason);
    try {
      const last = await this.#channel.addon.release();
      if (last) this.#workspace.remove();
    } catch (error) {
      if (hasStopped(error)) this.#workspace.remove();
      throw fromNative(error);
    } finally {
      this.#channel.leave();
      this.#children.close();
      this.#stopLog();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}
