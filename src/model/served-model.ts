import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unlessAborted } from "../common/abort";
import { checkLimit } from "../common/duration";
import { ModelLoadError, RequestCancelledError } from "../errors";
import type { ServerCore } from "../server/core";
import { environmentKey } from "../server/options";
import { InUseError } from "../transport/shared";
import { inputsOf } from "./contract";
import { control } from "./control";
import { childEnvironment } from "./engine-check";
import { defaultLoadTimeout, type VllmModelOptions } from "./load";
import { locateModel, type ModelLocation, removeModel, writeModel } from "./repository";
import { Restarter, toRestartOptions } from "./restart";

/** Milliseconds that the child has for its last work before it is unloaded. */
const endDeadline = 1_000;

/** What the first user of a model passes on to the others: the folder that its files were written to, if any. */
interface Placement {
  readonly written?: string;
}

/**
 * One VllmModel's use of a model in Triton. VllmModels with the same name and the same files share the model, in all threads of the
 * process: the first one loads it, the last one unloads it, and one of them loads it again after its engine died.
 */
export class ServedModel {
  readonly #core: ServerCore;
  readonly #name: string;
  readonly #options: VllmModelOptions;
  readonly #placement: Placement;
  readonly #leaveRepository: () => Promise<void>;
  readonly #restarter: Restarter;
  readonly #stopListening: () => void;

  /**
   * Loads the model, or shares it if it is loaded.
   *
   * @throws {@link ModelLoadError} (`ERR_MODEL_NAME_IN_USE` if another model has the name), or Triton's error.
   */
  static async load(core: ServerCore, name: string, options: VllmModelOptions): Promise<ServedModel> {
    const { signal } = options;
    const written = options.engine === undefined ? undefined : mkdtempSync(join(core.privateDirectory, "model-"));
    let leaveRepository: (() => Promise<void>) | undefined;
    const resource = `model/${name}`;
    let loading = false;
    try {
      const location =
        options.engine === undefined
          ? locateModel(options.modelRepository, options.model)
          : writeModel(written as string, name, options.engine, options.loras, childEnvironment(options));
      const found = await acquire(
        core,
        resource,
        fingerprint(location, written === undefined, options.environment),
        signal,
      );
      loading = found === undefined;
      if (found === undefined) {
        if (await core.isModelReady(name).catch(() => false)) throw inUse(name);
        leaveRepository = await core.shareRepository(location.repository);
        forgetAdapters(core, name);
        await loadWithin(core, name, options, signal);
        const placement: Placement = written === undefined ? {} : { written };
        core.shared.settle(resource, JSON.stringify(placement));
        return new ServedModel(core, name, options, placement, leaveRepository);
      }
      if (written !== undefined) removeModel(written);
      const placement = JSON.parse(found) as Placement;
      leaveRepository = await core.shareRepository(placement.written ?? location.repository);
      const served = new ServedModel(core, name, options, placement, leaveRepository);
      try {
        // Its engine may have died before this user joined, which Triton does not detect.
        if (!(await isUp(core, name))) await served.#reload(signal);
      } catch (error) {
        leaveRepository = undefined;
        await served.release();
        throw error;
      }
      return served;
    } catch (error) {
      await leaveRepository?.().catch(() => {});
      if (written !== undefined) removeModel(written);
      if (loading) core.shared.settle(resource);
      throw error;
    }
  }

  private constructor(
    core: ServerCore,
    name: string,
    options: VllmModelOptions,
    placement: Placement,
    leaveRepository: () => Promise<void>,
  ) {
    this.#core = core;
    this.#name = name;
    this.#options = options;
    this.#placement = placement;
    this.#leaveRepository = leaveRepository;
    this.#restarter = new Restarter(
      toRestartOptions(options.restart),
      (signal) => this.#reload(signal),
      (event) => options.onRestart?.(event),
    );
    if (options.restart !== undefined && toRestartOptions(options.restart).policy !== "never") {
      // An engine can fail while its child lives. This file makes the child exit, so that the engine is restarted too.
      mkdirSync(stateFolder(core, name), { recursive: true, mode: 0o700 });
      writeFileSync(join(stateFolder(core, name), "restart"), "");
    }
    this.#stopListening = core.onModelDied((model, error) => {
      if (model === name) this.#restarter.died(error);
    });
  }

  /** Ends this user's use of the model; the last user unloads it. */
  async release(): Promise<void> {
    this.#stopListening();
    await this.#restarter.stop();
    const { shared } = this.#core;
    const resource = `model/${this.#name}`;
    try {
      if (!(await shared.release(resource))) return;
      try {
        await this.#prepareEnd();
        await this.#core.unloadModel(this.#name);
      } finally {
        rmSync(stateFolder(this.#core, this.#name), { recursive: true, force: true });
        if (this.#placement.written !== undefined) removeModel(this.#placement.written);
        shared.settle(resource);
      }
    } finally {
      await this.#leaveRepository();
    }
  }

  /** Lets the child finish its last work. If it confirms that, unloading skips the health check, which takes a second. */
  async #prepareEnd(): Promise<void> {
    try {
      const { own } = inputsOf(await this.#core.ask((addon) => addon.modelConfig(this.#name)));
      if (!own) return;
      const answer = await control(this.#core, this.#name, { op: "end" }, { deadline: endDeadline });
      if ((answer as { ended?: unknown } | null)?.ended === true) this.#core.allowEnd(this.#name);
    } catch {
      // It is dead or busy: unloading includes the health check.
    }
  }

  /** Loads the model again, with its adapters, unless another of its users has already done so. */
  async #reload(signal: AbortSignal | undefined): Promise<void> {
    const { shared } = this.#core;
    const resource = `model/${this.#name}`;
    if (!(await shared.retake(resource))) return;
    try {
      if (await isUp(this.#core, this.#name)) return;
      // Triton considers a dead model healthy, and so does this object if it did not see the child die.
      if (await this.#core.isModelReady(this.#name)) await this.#core.unloadModel(this.#name);
      await loadWithin(this.#core, this.#name, this.#options, signal);
    } finally {
      shared.settle(resource, JSON.stringify(this.#placement));
    }
  }
}

/** Whether Triton accepts requests for the model and its engine is alive. */
async function isUp(core: ServerCore, name: string): Promise<boolean> {
  const alive = core.children.some((child) => child.model === name && child.instance !== name);
  return alive && (await core.isModelReady(name));
}

/** Joins the model's users; stops waiting for another user's load when the signal is aborted. */
async function acquire(
  core: ServerCore,
  resource: string,
  key: string,
  signal: AbortSignal | undefined,
): Promise<string | undefined> {
  const acquired = core.shared.acquire(resource, key);
  try {
    return await unlessAborted(acquired, signal, () => abortError(signal));
  } catch (error) {
    if (error instanceof InUseError) throw inUse(resource.slice("model/".length));
    // Releases a model that is acquired too late.
    acquired
      .then(async (found) => {
        if (found === undefined) core.shared.settle(resource);
        else await core.shared.release(resource);
      })
      .catch(() => {});
    throw error;
  }
}

function inUse(name: string): ModelLoadError {
  return new ModelLoadError(`another model named '${name}' is loaded in this process`, {
    code: "ERR_MODEL_NAME_IN_USE",
    hint: "dispose of it first, or give this one another name; the same files under the same name are shared",
  });
}

/** Distinguishes models of the same name, by the folder, the content of the files, and the environment. */
function fingerprint(location: ModelLocation, isFolder: boolean, environment: VllmModelOptions["environment"]): string {
  const folder = join(location.repository, location.name);
  const hash = createHash("sha256")
    .update(isFolder ? realpathSync(folder) : "")
    .update(environmentKey(environment));
  for (const file of ["config.pbtxt", "1/model.json", "1/multi_lora.json"]) {
    let content: Buffer | string;
    try {
      content = readFileSync(join(folder, file));
    } catch {
      content = "";
    }
    hash.update(`\0${content.length}\0`).update(content);
  }
  return hash.digest("hex");
}

/** Deletes the list of adapters that the next child would load again (tritonode/lora/saved.py): this is a new model. */
function forgetAdapters(core: ServerCore, name: string): void {
  rmSync(join(stateFolder(core, name), "adapters.json"), { force: true });
}

/** Files that one child of a model, or the host, leaves for the next child (tritonode/lora/saved.py). */
function stateFolder(core: ServerCore, name: string): string {
  return join(core.privateDirectory, "models", name);
}

function abortError(signal: AbortSignal | undefined): RequestCancelledError {
  return new RequestCancelledError("the load was aborted by its signal", { cause: signal?.reason });
}

export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/** Loads the model within the options' `timeout`. */
async function loadWithin(
  core: ServerCore,
  name: string,
  { environment, timeout = defaultLoadTimeout }: VllmModelOptions,
  signal: AbortSignal | undefined,
): Promise<void> {
  const milliseconds = checkLimit("timeout", timeout);
  const limit = new AbortController();
  const timer = milliseconds === undefined ? undefined : setTimeout(() => limit.abort(), milliseconds);
  try {
    await core.loadModel(name, {
      environment,
      killConfigurationChild: true,
      signal: signal === undefined ? limit.signal : AbortSignal.any([signal, limit.signal]),
    });
  } catch (error) {
    if (limit.signal.aborted) {
      throw new ModelLoadError(`the model '${name}' was not ready after ${timeout} ms`, {
        code: "ERR_LOAD_TIMEOUT",
        cause: error,
        hint: "raise `timeout`, or pass `logger` and `onProgress` to see which phase takes so long",
      });
    }
    throw error;
  } finally {
    clearTimeout(timer);
  }
}
