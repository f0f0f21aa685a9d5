import { join } from "node:path";
import { unlessAborted } from "../common/abort";
import { describe } from "../common/describe";
import { checkLimit } from "../common/duration";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError, ModelLoadError, RequestCancelledError } from "../errors";
import { packageRoot } from "../package-root";
import { requireGpu } from "../runtime";
import { ServerCore } from "../server/core";
import type { WarmChildKeeper } from "../server/warm-child";
import { defaultLoadTimeout, type PrewarmOptions, resolveRuntime } from "./load";
import { loadChecks } from "./load-options";

const options = ["runtime", "device", "logger", "signal", "timeout", "environment"] as const;

/** @throws {@link InvalidArgumentError} naming the option of `VllmModel.prewarm`. */
function checkPrewarmOptions(given: PrewarmOptions): void {
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new InvalidArgumentError(`VllmModel.prewarm takes an object of options, got ${describe(given)}`);
  }
  checkNames("VllmModel.prewarm", given, options, `the options are ${options.join(", ")}; it needs no model`);
  for (const name of options) loadChecks[name](name, given[name]);
}

let create: (core: ServerCore, keeper: WarmChildKeeper) => WarmChild;

/**
 * A Python child that has imported torch and vLLM and waits for a model. A load with the same environment uses it, and so does a
 * restart after a crash; then another one is started as soon as the models of this process are idle. This object keeps one
 * child waiting until {@link WarmChild.dispose}, or until the process ends.
 */
export class WarmChild implements AsyncDisposable {
  static {
    create = (core, keeper) => new WarmChild(core, keeper);
  }

  readonly #core: ServerCore;
  readonly #keeper: WarmChildKeeper;
  #disposed: Promise<void> | undefined;

  private constructor(core: ServerCore, keeper: WarmChildKeeper) {
    this.#core = core;
    this.#keeper = keeper;
  }

  /** Process id of the waiting child; undefined while there is none, because it was used and the next one is not ready yet. */
  get pid(): number | undefined {
    return this.#keeper.pid;
  }

  /** Ends the waiting child. A model that uses one keeps it. Repeated calls return the same promise. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#dispose();
    return this.#disposed;
  }

  /** Calls `dispose()`, for `await using`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #dispose(): Promise<void> {
    this.#keeper.release();
    await this.#core.stop();
  }
}

/** See {@link VllmModel.prewarm}. */
export async function prewarm(given: PrewarmOptions): Promise<WarmChild> {
  checkPrewarmOptions(given);
  const { signal, environment, timeout = defaultLoadTimeout } = given;
  const aborted = () => new RequestCancelledError("prewarming was aborted by its signal", { cause: signal?.reason });
  if (signal?.aborted) throw aborted();
  ServerCore.checkAddon();
  const runtime = await resolveRuntime(given);
  requireGpu(runtime);
  const milliseconds = checkLimit("timeout", timeout);
  const limit = milliseconds === undefined ? undefined : AbortSignal.timeout(milliseconds);
  const core = await ServerCore.start({
    runtime,
    logger: given.logger,
    backends: { vllm: join(packageRoot(), "backends", "vllm") },
  });
  let keeper: WarmChildKeeper | undefined;
  try {
    keeper = core.keepWarmChild("vllm", environment ?? {});
    const signals = [signal, limit].filter((each) => each !== undefined);
    await unlessAborted(keeper.start(), signals.length > 0 ? AbortSignal.any(signals) : undefined, () =>
      signal?.aborted === true
        ? aborted()
        : new ModelLoadError(`the warm child was not ready after ${timeout} ms`, {
            code: "ERR_LOAD_TIMEOUT",
            hint: "raise `timeout`, or pass `logger` to see which step takes so long",
          }),
    );
    return create(core, keeper);
  } catch (error) {
    keeper?.release();
    await core.stop().catch(() => {});
    throw error;
  }
}
