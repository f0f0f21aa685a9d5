import { randomUUID } from "node:crypto";
import {
  DisposedError,
  EngineDiedError,
  InvalidArgumentError,
  ModelLoadError,
  RequestCancelledError,
  TritonServerError,
} from "../errors";
import { Channel } from "./channel";
import { Children, type ServerChild } from "./children";
import { fromNative } from "./failure";
import { logTo } from "./logger";
import { type ServerDescription, type TritonServerOptions, toNativeOptions } from "./options";
import { type InferenceRequest, toNativeRequest } from "./request";
import { Responses, type ResponseStream, StreamState } from "./stream";
import { sweep } from "./sweep";
import { temporaryDirectory, Workspace } from "./workspace";

export interface LoadModelOptions {
  /** The model's configuration (config.pbtxt as an object); default: the folder's own. */
  readonly config?: Readonly<Record<string, unknown>> | undefined;
  /** The model's files by their path inside its folder (`1/model.py`), for a model that is in no repository. */
  readonly files?: Readonly<Record<string, Uint8Array | string>> | undefined;
  /** Stops waiting. Triton can't interrupt a load: it goes on, and the model is unloaded when it is done. */
  readonly signal?: AbortSignal | undefined;
}

/** Triton's view of a model in its repositories (`TRITONSERVER_ServerModelIndex`). */
export interface ModelIndexEntry {
  readonly name: string;
  readonly version?: string;
  readonly state?: string;
  readonly reason?: string;
}

interface Running {
  readonly model: string;
  readonly call: number;
  readonly state: StreamState;
}

/**
 * NVIDIA Triton in this process. There is one for the whole process: further starts, from workers too, join it, and it
 * stops with the last one that stops.
 */
export class TritonServer {
  readonly #channel: Channel;
  readonly #workspace: Workspace;
  readonly #children: Children;
  readonly #stopLog: () => void;
  readonly #running = new Map<number, Running>();
  /** Models whose Python child died on its own; until they are loaded again. */
  readonly #dead = new Map<string, EngineDiedError>();
  readonly #unloading = new Set<string>();
  readonly #loading = new Map<string, Set<(error: Error) => void>>();
  readonly #ready = new Set<string>();
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
    // Subscribed before the start: the log of a start that fails is the one that is wanted most.
    const logger = options.logger;
    const stopLog = logger === undefined ? () => {} : channel.onLog((line) => logTo(logger, line));
    const children = new Children(channel);
    try {
      if (found === undefined) {
        sweep(temporaryDirectory());
        workspace = Workspace.create({
          runtime: options.runtime,
          backends: options.backends ?? {},
          environment: options.childEnvironment ?? {},
        });
        await addon.start(toNativeOptions(options, workspace));
      } else {
        const description = JSON.parse(found) as ServerDescription;
        if (description.runtime !== options.runtime.directory) {
          throw new InvalidArgumentError(
            `this process's server runs on the runtime in ${description.runtime}, not on ${options.runtime.directory}`,
            { hint: "stop it first, or use the same runtime in every thread" },
          );
        }
        workspace = Workspace.open(description.directory, description.shmPrefix);
      }
      const server = new TritonServer(channel, workspace, children, stopLog);
      for (const path of options.modelRepositories ?? []) await server.registerRepository(path);
      return server;
    } catch (error) {
      const stopped = await addon.release().catch(() => true);
      if (stopped || found === undefined) workspace?.remove();
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
    children.onChange((child, running) => this.#onChild(child, running));
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

  #ask<T>(question: (addon: Channel["addon"]) => Promise<T>): Promise<T> {
    if (this.#stopped !== undefined) return Promise.reject(new DisposedError("the server"));
    return question(this.#channel.addon).catch((error: unknown) => Promise.reject(fromNative(error)));
  }

  isLive(): Promise<boolean> {
    return this.#ask((addon) => addon.isLive());
  }

  async isReady(): Promise<boolean> {
    return (await this.#ask((addon) => addon.isReady())) && this.#dead.size === 0;
  }

  /** Whether the model takes requests; false from the moment its child died, whatever Triton still believes. */
  async isModelReady(name: string, version?: number): Promise<boolean> {
    return !this.#dead.has(name) && (await this.#ask((addon) => addon.isModelReady(name, version)));
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
   * Loads a model, or loads it again if its files or its configuration changed, and waits until it is ready.
   *
   * @throws {@link ModelLoadError} with the backend's reason; `ERR_STUB_START` if its Python child ended before it was up.
   */
  async loadModel(name: string, options: LoadModelOptions = {}): Promise<void> {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    if (typeof name !== "string" || !/^[A-Za-z0-9_.-]+$/.test(name) || /^\.+$/.test(name)) {
      throw new InvalidArgumentError(`${JSON.stringify(name)} is no name for a model`, {
        hint: "use letters, digits, '_', '-' and '.'",
      });
    }
    const { config, files, signal } = options;
    if (signal?.aborted) throw new RequestCancelledError("the load was aborted by its signal", { cause: signal.reason });
    if (files !== undefined) this.#workspace.writeModel(name, files);
    this.#children.addModel(name);
    // Triton takes a dead child's model for a healthy one and would do nothing.
    if (this.#dead.has(name)) await this.unloadModel(name);

    const load = this.#channel.addon.loadModel(name, config === undefined ? undefined : JSON.stringify(config));
    try {
      await this.#untilLoaded(name, load, signal);
    } catch (error) {
      const typed = fromNative(error);
      if (typed instanceof TritonServerError) throw new ModelLoadError(typed.message, { cause: typed });
      throw typed;
    }
    this.#dead.delete(name);
    this.#ready.add(name);
  }

  /** Settles with the load, or before it when its signal says so or its child is gone and Triton would wait for ever. */
  async #untilLoaded(name: string, load: Promise<void>, signal: AbortSignal | undefined): Promise<void> {
    const giveUp = new Set<(error: Error) => void>();
    let onAbort: (() => void) | undefined;
    const interrupted = new Promise<never>((_, reject) => {
      giveUp.add(reject);
      onAbort = () =>
        reject(new RequestCancelledError("the load was aborted by its signal", { cause: signal?.reason }));
      signal?.addEventListener("abort", onAbort, { once: true });
    });
    const waiting = this.#loading.get(name) ?? new Set();
    this.#loading.set(name, waiting);
    for (const each of giveUp) waiting.add(each);
    let done = false;
    // The load itself does not keep the process alive: it may never end.
    this.#channel.addon.hold();
    const finished = load.finally(() => {
      done = true;
    });
    try {
      await Promise.race([finished, interrupted]);
    } catch (error) {
      // Nobody waits for this model any more.
      if (!done) finished.then(() => this.unloadModel(name)).catch(() => {});
      throw error;
    } finally {
      this.#channel.addon.unhold();
      for (const each of giveUp) waiting.delete(each);
      if (waiting.size === 0) this.#loading.delete(name);
      if (onAbort !== undefined) signal?.removeEventListener("abort", onAbort);
    }
  }

  /** Unloads a model and waits until its Python child is gone. Requests that run are waited for by Triton. */
  async unloadModel(name: string, options: { dependents?: boolean } = {}): Promise<void> {
    this.#unloading.add(name);
    try {
      const pids = this.#children.of(name).map((child) => child.pid);
      await this.#ask((addon) => addon.unloadModel(name, options.dependents ?? false));
      this.#ready.delete(name);
      this.#dead.delete(name);
      await this.#untilGone(new Set(pids));
    } finally {
      this.#unloading.delete(name);
    }
  }

  #untilGone(pids: Set<number>): Promise<void> {
    const running = () => this.#children.running.some((child) => pids.has(child.pid));
    if (!running()) return Promise.resolve();
    return new Promise((resolve) => {
      // Child events do not keep the event loop alive, and the caller awaits this.
      const alive = setInterval(() => {}, 60_000);
      const stop = this.#children.onChange(() => {
        if (running()) return;
        stop();
        clearInterval(alive);
        resolve();
      });
    });
  }

  /**
   * Sends a request. Its responses come as the returned stream is read; errors of the request itself (unknown model,
   * wrong tensors) reject there too.
   *
   * @throws {@link InvalidArgumentError} for a request that can't be sent at all, {@link DisposedError} after `stop`.
   */
  infer(request: InferenceRequest): ResponseStream {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    const id = request.id ?? randomUUID();
    const native = toNativeRequest(request, id);
    const state = new StreamState({
      id,
      signal: request.signal,
      deadline: request.deadline,
      onResponse: request.onResponse,
      merge: request.merge,
      maxQueuedResponses: request.maxQueuedResponses ?? 65_536,
    });
    const stream = new Responses(state, request.onResponse === undefined);
    const dead = this.#dead.get(request.model);
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
    const running = { model: request.model, call, state };
    this.#running.set(call, running);
    state.onEnd(() => this.#running.delete(call));
    this.#channel.addCall(call, state);
    state.begin(() => {
      this.#channel.removeCall(call);
      this.#channel.addon.cancel(call);
    });
    return stream;
  }

  #onChild(child: ServerChild, running: boolean): void {
    const { model } = child;
    if (model === undefined) return;
    if (running) {
      // Started again, perhaps by another environment.
      if (child.instance !== model) this.#dead.delete(model);
      return;
    }
    if (this.#loading.has(model)) {
      this.#childEndedWhileLoading(model);
      return;
    }
    // The stub that completes a configuration is named after the model and ends when that is done.
    if (child.instance === model || this.#unloading.has(model) || this.#stopped !== undefined) return;
    this.#modelDied(model, child);
  }

  // A load starts two stubs in turn and Triton notices most failures itself, after unloading what it had. If no other
  // stub has come and the load still hangs after this time, nobody will ever end it.
  #childEndedWhileLoading(model: string): void {
    const waiting = [...(this.#loading.get(model) ?? [])];
    setTimeout(() => {
      if (this.#children.of(model).length > 0 || this.#loading.get(model) === undefined) return;
      this.#channel.addon.noteChildDied();
      for (const giveUp of waiting) {
        giveUp(
          new ModelLoadError(`the Python child of model '${model}' ended before the model was up`, {
            code: "ERR_STUB_START",
            hint: "its last words are in the log; run: npx tritonode doctor",
          }),
        );
      }
    }, 5_000).unref();
  }

  #modelDied(model: string, child: ServerChild): void {
    const error = new EngineDiedError(`the Python child ${child.pid} of model '${model}' (${child.instance}) is gone`, {
      hint: "its last words are in the log; load the model again",
    });
    this.#dead.set(model, error);
    this.#channel.addon.noteChildDied();
    for (const running of [...this.#running.values()]) {
      if (running.model !== model) continue;
      running.state.abandon(error, () => {
        this.#channel.removeCall(running.call);
        this.#channel.addon.abandon(running.call);
      });
    }
    for (const listener of this.#diedListeners) listener(model, error);
  }

  /** Ends this object's requests and leaves the server; the last one to leave stops it. Repeated calls are one call. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.cancelAll(new RequestCancelledError("the server was stopped"));
    try {
      const last = await this.#channel.addon.release();
      if (last) this.#workspace.remove();
    } catch (error) {
      this.#workspace.remove();
      throw fromNative(error);
    } finally {
      this.#children.close();
      this.#stopLog();
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.stop();
  }
}
