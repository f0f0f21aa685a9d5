import { callback } from "../common/callbacks";
import { DisposedError, type EngineDiedError, InvalidArgumentError, RequestCancelledError } from "../errors";
import { loadAddon, warmLibrary } from "../native/binding";
import { Channel } from "../transport/channel";
import { fromNative } from "../transport/failure";
import { Shared } from "../transport/shared";
import { sweep } from "../transport/sweep";
import { temporaryDirectory, Workspace } from "../transport/workspace";
import { type CallRequest, Calls } from "./calls";
import { Children, type ServerChild } from "./children";
import { type Logger, logTo } from "./logger";
import { type LoadModelOptions, Models } from "./models";
import { environmentKey, type ResolvedServerOptions, type ServerDescription, toNativeOptions } from "./options";
import type { ResponseStream } from "./stream";
import { WarmChildKeeper } from "./warm-child";

/** Whether the server is gone although releasing it failed: so after every error except the lack of a thread to do it on. */
function hasStopped(error: unknown): boolean {
  return (error as { code?: unknown }).code !== "SYSTEM";
}

/**
 * One use of the process's Triton, by a {@link TritonServer} or a {@link VllmModel}. There is one Triton for the whole
 * process: later uses, from workers too, join it, and it stops when the last of them stops.
 */
export class ServerCore {
  /** Resources that all environments of this process share. */
  readonly shared: Shared;
  readonly #channel: Channel;
  readonly #workspace: Workspace;
  readonly #children: Children;
  readonly #stopLog: () => void;
  readonly #logger: Logger | undefined;
  readonly #models: Models;
  readonly #calls: Calls;
  readonly #diedListeners = new Set<(model: string, error: EngineDiedError) => void>();
  #stopped: Promise<void> | undefined;

  /**
   * Starts the process's server, or joins it.
   *
   * @throws {@link AddonLoadError} without a usable addon, {@link RuntimeMissingError} if the runtime's libraries can't be
   *   opened, {@link InvalidArgumentError} for a bad option or if another runtime is in use, {@link TritonServerError}.
   */
  static async start(options: ResolvedServerOptions): Promise<ServerCore> {
    const channel = Channel.get();
    const { addon } = channel;
    const found = await addon.acquire().catch((error: unknown) => Promise.reject(fromNative(error)));
    let workspace: Workspace | undefined;
    let started = found !== undefined;
    // Subscribed before the start, because the log matters most when the start fails.
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
        // If the server silently used other settings than the caller asked for, the mistake would be found late.
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
      const server = new ServerCore(channel, workspace, children, stopLog, logger);
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

  /** @throws {@link AddonLoadError} where the addon can't be loaded on this machine. */
  static checkAddon(): void {
    loadAddon();
  }

  private constructor(
    channel: Channel,
    workspace: Workspace,
    children: Children,
    stopLog: () => void,
    logger: Logger | undefined,
  ) {
    this.#logger = logger;
    this.#channel = channel;
    this.#workspace = workspace;
    this.#children = children;
    this.#stopLog = stopLog;
    this.shared = new Shared(channel.addon);
    channel.join();
    this.#models = new Models(channel.addon, workspace, children, {
      died: (model, error) => this.#modelDied(model, error),
      replaced: (model, error, since) => this.#calls.childReplaced(model, error, since),
    });
    this.#calls = new Calls(channel, (model) => this.#models.death(model));
  }

  /** The server's private directory, for tests and for files of a backend. */
  get privateDirectory(): string {
    return this.#workspace.directory;
  }

  /** Prefix of the names of this server's regions in /dev/shm. */
  get sharedMemoryPrefix(): string {
    return this.#workspace.shmPrefix;
  }

  /** Requests of this object that run. */
  get runningRequests(): number {
    return this.#calls.running;
  }

  /** Cancels every running request of this object; each rejects with `reason`. */
  cancelAll(reason: Error): void {
    this.#calls.cancelAll(reason, { background: false });
  }

  /** Resolves when no request of this object runs. */
  drained(): Promise<void> {
    return this.#calls.drained();
  }

  /** The Python children that run now, of the whole process's server. */
  get children(): ServerChild[] {
    return this.#children.running;
  }

  /** Calls `listener` when the child of a loaded model exits without having been told to. */
  onModelDied(listener: (model: string, error: EngineDiedError) => void): () => void {
    this.#diedListeners.add(listener);
    return () => this.#diedListeners.delete(listener);
  }

  /** Calls Triton. @throws {@link DisposedError} after `stop`, and Triton's errors. */
  async ask<T>(question: (addon: Channel["addon"]) => Promise<T>): Promise<T> {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    try {
      return await question(this.#channel.addon);
    } catch (error) {
      throw fromNative(error);
    }
  }

  /** Whether a model's child has died and the model was not loaded again. */
  get anyModelDead(): boolean {
    return this.#models.anyDead;
  }

  /** Whether the model accepts requests; false from the moment its child died, although Triton may still report it as ready. */
  async isModelReady(name: string, version?: number): Promise<boolean> {
    return this.#models.death(name) === undefined && (await this.ask((addon) => addon.isModelReady(name, version)));
  }

  registerRepository(path: string): Promise<void> {
    return this.ask((addon) => addon.registerRepository(this.#workspace.repository(path)));
  }

  unregisterRepository(path: string): Promise<void> {
    return this.ask((addon) => addon.unregisterRepository(this.#workspace.repository(path)));
  }

  /**
   * Registers a repository, or joins its other users in this process, in any thread.
   *
   * @returns a function that leaves it; the last user to leave unregisters it
   */
  async shareRepository(path: string): Promise<() => Promise<void>> {
    const link = this.#workspace.repository(path);
    const name = `repository/${link}`;
    if ((await this.shared.acquire(name, link)) === undefined) {
      try {
        await this.ask((addon) => addon.registerRepository(link));
      } catch (error) {
        this.shared.settle(name);
        throw error;
      }
      this.shared.settle(name, link);
    }
    return async () => {
      if (!(await this.shared.release(name))) return;
      try {
        await this.ask((addon) => addon.unregisterRepository(link));
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

  /**
   * Call this when the model's children have nothing left to do: unloading then kills them at once, without the health check
   * that takes a second.
   */
  allowEnd(name: string): void {
    this.#models.allowEnd(name);
  }

  /** Unloads a model and waits until its Python child is gone. Triton waits for the running requests first. */
  async unloadModel(name: string, options: { dependents?: boolean } = {}): Promise<void> {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    return this.#models.unload(name, options);
  }

  /**
   * Makes a keeper of warm children, and starts nothing yet. The warm children exit with the server at the latest.
   *
   * @param backend - the Python-based backend that they import
   * @param environment - the environment of the models that will use them
   * @throws {@link PackageFilesError} where their library is missing.
   */
  keepWarmChild(backend: string, environment: Readonly<Record<string, string | undefined>>): WarmChildKeeper {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    const key = this.#workspace.prepareWarmChild(environment, warmLibrary(), backend);
    return new WarmChildKeeper(
      {
        addon: this.#channel.addon,
        children: () => this.children.map(({ pid }) => pid),
        warn: (message) => this.#logger?.warn(message),
      },
      key,
    );
  }

  /** See {@link TritonServer.infer}. */
  infer(request: CallRequest): ResponseStream {
    if (this.#stopped !== undefined) throw new DisposedError("the server");
    return this.#calls.infer(request);
  }

  #modelDied(model: string, error: EngineDiedError): void {
    this.#calls.modelDied(model, error);
    for (const listener of this.#diedListeners) callback("onModelDied", listener, () => listener(model, error));
  }

  /**
   * Cancels this object's requests and leaves the server; the last user to leave stops it. Repeated calls return the same
   * promise.
   */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  async #stop(): Promise<void> {
    this.#models.close();
    const reason = new RequestCancelledError("the server was stopped");
    this.#calls.cancelAll(reason, { background: true });
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
}
