import { onAbort } from "../common/abort";
import { describe } from "../common/describe";
import { checkNames } from "../common/unknown";
import {
  EngineDiedError,
  InvalidArgumentError,
  ModelLoadError,
  RequestCancelledError,
  TritonServerError,
} from "../errors";
import type { Addon } from "../native/binding";
import { fromNative } from "../transport/failure";
import type { Workspace } from "../transport/workspace";
import type { Children, ServerChild } from "./children";

/** Options of {@link TritonServer.loadModel}. */
export interface LoadModelOptions {
  /** The model's configuration (config.pbtxt as an object); default: the folder's own. */
  readonly config?: Readonly<Record<string, unknown>> | undefined;
  /** The model's files by their path inside its folder (`1/model.py`), for a model that is not in a repository. */
  readonly files?: Readonly<Record<string, Uint8Array | string>> | undefined;
  /** Environment variables for this model's Python children only; undefined removes one. */
  readonly environment?: Readonly<Record<string, string | undefined>> | undefined;
  /**
   * The child that completes the model's configuration leaves nothing behind, so Triton may kill it when it has answered,
   * instead of taking a second to find out whether it can be told to exit.
   */
  readonly killConfigurationChild?: boolean | undefined;
  /** Aborting it cancels loading: the model's Python child is killed, because Triton can't cancel a load itself. */
  readonly signal?: AbortSignal | undefined;
}

const optionNames = Object.keys({
  config: true,
  files: true,
  environment: true,
  killConfigurationChild: true,
  signal: true,
} satisfies Record<keyof LoadModelOptions, true>);

/** Notified about children that exit without having been told to. */
export interface ModelListener {
  /** No child serves the model any more. */
  died(model: string, error: EngineDiedError): void;
  /** A child is gone that another one, started at `since` (`performance.now()`), has replaced. */
  replaced(model: string, error: EngineDiedError, since: number): void;
}

/** Cancelled loads of this environment, until Triton has finished with them. */
const abandoned = new Map<string, Promise<void>>();

/**
 * Triton's messages when the child of a load has ended (python_backend, src/stub_launcher.cc;
 * native/python_backend/child_waits.cc).
 */
const childEnded = /Stub process '.*' is not healthy|the Python child that completes the configuration ended/;

function stubStartError(model: string, cause?: unknown): ModelLoadError {
  return new ModelLoadError(`the Python child of model '${model}' ended before the model was up`, {
    code: "ERR_STUB_START",
    cause,
    hint: "its last lines in the log say why; run: npx tritonode doctor",
  });
}

/** A model that loads. */
interface Loading {
  /** Functions that reject the waiting calls. */
  readonly waiting: Set<(error: Error) => void>;
  /** Pids of the children that serve the model until it is loaded again. */
  readonly serving: Set<number>;
  /** One of these children that has died since. */
  lost?: ServerChild;
}

/** Loads and unloads models, and notices children that die, which Triton does not. */
export class Models {
  readonly #addon: Addon;
  readonly #workspace: Workspace;
  readonly #children: Children;
  readonly #listener: ModelListener;
  /** Models whose Python child died on its own; until they are loaded again. */
  readonly #dead = new Map<string, EngineDiedError>();
  readonly #unloading = new Set<string>();
  readonly #loading = new Map<string, Loading>();
  #closed = false;

  constructor(addon: Addon, workspace: Workspace, children: Children, listener: ModelListener) {
    this.#addon = addon;
    this.#workspace = workspace;
    this.#children = children;
    this.#listener = listener;
    children.onChange((child, running, asked) => this.#onChild(child, running, asked));
  }

  get anyDead(): boolean {
    return this.#dead.size > 0;
  }

  /** Why the model does not accept requests, if its child died. */
  death(name: string): EngineDiedError | undefined {
    return this.#dead.get(name);
  }

  /** Call this when the server stops: children that exit from now on were told to. */
  close(): void {
    this.#closed = true;
  }

  /** See {@link TritonServer.loadModel}. */
  async load(name: string, options: LoadModelOptions = {}): Promise<void> {
    if (typeof name !== "string" || !/^[A-Za-z0-9_.-]+$/.test(name) || /^\.+$/.test(name)) {
      throw new InvalidArgumentError(`${describe(name)} cannot be a model's name`, {
        hint: "use letters, digits, '_', '-' and '.'",
      });
    }
    checkNames("loadModel", options, optionNames);
    const { config, files, signal } = options;
    if (signal?.aborted) {
      throw new RequestCancelledError("the load was aborted by its signal", { cause: signal.reason });
    }
    await this.#untilAbandonedIsGone(name);
    if (files !== undefined) this.#workspace.writeModel(name, files);
    if (options.environment !== undefined) this.#workspace.setEnvironment(name, options.environment);
    // Triton considers a model healthy whose child is dead, and would do nothing.
    if (this.#dead.has(name)) await this.#unload(name, false);

    const before = new Set(this.#children.of(name).map((child) => child.pid));
    const stopWatching =
      options.killConfigurationChild === true
        ? this.#children.onChange((child, running) => {
            if (running && child.instance === name) this.#addon.allowEnd(child.pid);
          })
        : () => {};
    const load = this.#addon.loadModel(name, config === undefined ? undefined : JSON.stringify(config));
    try {
      await this.#untilLoaded(name, load, before, signal);
    } catch (error) {
      const typed = fromNative(error);
      if (typed instanceof TritonServerError && childEnded.test(typed.message)) throw stubStartError(name, typed);
      if (typed instanceof TritonServerError) throw new ModelLoadError(typed.message, { cause: typed });
      throw typed;
    } finally {
      stopWatching();
    }
    this.#dead.delete(name);
  }

  /**
   * Settles with the load, or rejects earlier: when the signal is aborted, or when the child is gone and the load would
   * hang.
   */
  async #untilLoaded(
    name: string,
    load: Promise<void>,
    before: ReadonlySet<number>,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const loading = this.#loading.get(name) ?? { waiting: new Set(), serving: new Set() };
    this.#loading.set(name, loading);
    const { waiting, serving } = loading;
    for (const pid of before) serving.add(pid);
    let giveUp: (error: Error) => void = () => {};
    const interrupted = new Promise<never>((_, reject) => {
      giveUp = reject;
    });
    waiting.add(giveUp);
    const stopWaiting = onAbort(signal, () =>
      giveUp(new RequestCancelledError("the load was aborted by its signal", { cause: signal?.reason })),
    );
    let done = false;
    // The load itself does not keep the process alive: it may never end.
    this.#addon.hold();
    const finished = load.finally(() => {
      done = true;
    });
    try {
      await Promise.race([finished, interrupted]);
    } catch (error) {
      if (!done) this.#abandon(name, before, finished);
      // If the new version fails, Triton keeps the old one, but its child has died since.
      if (loading.lost !== undefined) this.#modelDied(name, loading.lost);
      throw error;
    } finally {
      this.#addon.unhold();
      waiting.delete(giveUp);
      if (waiting.size === 0) this.#loading.delete(name);
      stopWaiting();
    }
  }

  async #untilAbandonedIsGone(name: string): Promise<void> {
    const gone = abandoned.get(name);
    if (gone === undefined) return;
    this.#addon.hold();
    await gone;
    this.#addon.unhold();
  }

  /**
   * The load was cancelled: killing the child makes it fail, and if it has just succeeded, the model is unloaded.
   *
   * @param before - children that served the model before the load and continue to serve it
   */
  #abandon(name: string, before: ReadonlySet<number>, finished: Promise<void>): void {
    const kill = () => {
      for (const { pid } of this.#children.of(name)) if (!before.has(pid)) this.#addon.endChild(pid);
    };
    kill();
    // Triton starts a second child when the first, which completes the configuration, has ended.
    const stop = this.#children.onChange((child, running) => {
      if (running && child.model === name) kill();
    });
    // With a limit, because a load whose stub can't start never returns.
    let timer: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, 10_000).unref();
    });
    const end = finished.then(() => this.#unload(name, false)).catch(() => {});
    const gone = Promise.race([end, limit]).finally(() => {
      clearTimeout(timer);
      stop();
      if (abandoned.get(name) === gone) abandoned.delete(name);
    });
    abandoned.set(name, gone);
  }

  /** See {@link TritonServer.unloadModel}. */
  async unload(name: string, options: { dependents?: boolean } = {}): Promise<void> {
    await this.#unload(name, options.dependents ?? false);
    this.#dead.delete(name);
  }

  /**
   * Call this when the model's children have nothing left to do: Triton then kills them when the model is unloaded, without
   * telling them to exit.
   */
  allowEnd(name: string): void {
    for (const { pid } of this.#children.of(name)) this.#addon.allowEnd(pid);
  }

  async #unload(name: string, dependents: boolean): Promise<void> {
    this.#unloading.add(name);
    try {
      const pids = this.#children.of(name).map((child) => child.pid);
      await this.#addon.unloadModel(name, dependents);
      await this.#untilGone(new Set(pids));
    } catch (error) {
      throw fromNative(error);
    } finally {
      this.#unloading.delete(name);
    }
  }

  #untilGone(pids: Set<number>): Promise<void> {
    const running = () => this.#children.running.some((child) => pids.has(child.pid));
    if (!running()) return Promise.resolve();
    return new Promise((resolve) => {
      // Child events do not keep the event loop alive, so a timer does while the caller waits.
      const alive = setInterval(() => {}, 60_000);
      const stop = this.#children.onChange(() => {
        if (running()) return;
        stop();
        clearInterval(alive);
        resolve();
      });
    });
  }

  #onChild(child: ServerChild, running: boolean, asked: boolean): void {
    const { model } = child;
    if (running) {
      // Another environment has started the model again. A load of this environment resolves by itself when the model is up.
      if (child.instance !== model && !this.#loading.has(model)) this.#dead.delete(model);
      return;
    }
    const loading = this.#loading.get(model);
    if (loading !== undefined) {
      // It would have served until the load was done, and been told to exit after that. So it died, and its requests are lost,
      // whatever has started since.
      if (loading.serving.has(child.pid)) {
        loading.lost = child;
        this.#listener.replaced(model, goneError(child), performance.now());
      }
      this.#childEndedWhileLoading(model);
      return;
    }
    // The stub that completes a configuration is named after the model and exits when that is done.
    if (child.instance === model || this.#unloading.has(model) || this.#closed) return;
    // Triton loads a model again whose files changed when it loads an ensemble over it: it starts a child of the same
    // instance, and stops the old one when the new one is up and the old one's requests are done. If the new one fails, the old
    // one continues. If the old one dies before that, the requests since then were sent to it; until the new one is up,
    // Triton refuses further requests (fromResponse in transport/failure.ts).
    const other = this.#children.of(model).find(({ instance }) => instance === child.instance);
    if (other === undefined) this.#modelDied(model, child);
    else if (other.since > child.since) {
      this.#listener.replaced(model, goneError(child), asked ? other.since : performance.now());
    }
  }

  // A load starts two stubs, one after the other, and Triton notices most failures itself, after unloading. If no other
  // stub has started and the load still hangs after this time, it will never return.
  #childEndedWhileLoading(model: string): void {
    const waiting = [...(this.#loading.get(model)?.waiting ?? [])];
    setTimeout(() => {
      if (this.#children.of(model).length > 0 || this.#loading.get(model) === undefined) return;
      this.#addon.noteStuck();
      for (const giveUp of waiting) {
        giveUp(stubStartError(model));
      }
    }, 5_000).unref();
  }

  #modelDied(model: string, child: ServerChild): void {
    const error = goneError(child);
    this.#dead.set(model, error);
    this.#listener.died(model, error);
    this.#addon.abandonOrphans(model);
  }
}

function goneError({ pid, model, instance }: ServerChild): EngineDiedError {
  return new EngineDiedError(`the Python child ${pid} of model '${model}' (${instance}) is gone`, {
    hint: "its last lines in the log say why; load the model again",
  });
}
