import { type LoadProgress, VllmModel, type VllmModelOptions } from "../model";
import { type Device, findRuntime } from "../runtime";
import type { Context } from "./context";
import type { AdapterSource, ModelSource } from "./model-source";
import { ProgressBar } from "./progress-bar";
import { styler } from "./terminal";

/** The part of {@link VllmModel} that the commands call. */
export interface TextModel {
  generate(prompt: string, options: Record<string, unknown>): Promise<{ text: string }>;
  stream(prompt: string, options: Record<string, unknown>): AsyncIterable<{ text: string; index: number }>;
}

/** The names of a load's phases, for people. */
const PHASES: Readonly<Record<LoadProgress["phase"], string>> = {
  start: "starting Triton",
  import: "importing vLLM",
  "check-adapters": "checking the adapters",
  "load-model": "loading the weights",
  "load-adapter": "loading the adapters",
  "warm-up": "warming up",
  ready: "ready",
};

/** How a model is loaded from the command line. */
export interface LoadSettings {
  readonly source: ModelSource;
  readonly adapters?: readonly AdapterSource[];
  /** Further engine arguments of a folder or a file. */
  readonly engine?: Readonly<Record<string, unknown>>;
  readonly device?: "cpu" | "cuda" | undefined;
  readonly verbose?: boolean;
  /** Show no progress. */
  readonly quiet?: boolean;
}

/** Loads a model, calls `use` with it, and disposes of it. */
export async function withModel<T>(
  context: Context,
  settings: LoadSettings,
  use: (model: VllmModel) => Promise<T>,
): Promise<T> {
  const model = await loadModel(context, settings);
  try {
    for (const { name, path } of settings.adapters ?? []) {
      if (settings.source.kind === "repository" && path !== undefined) await model.adapters.load(name, path);
      if (path === undefined) await model.adapters.get(name);
    }
    return await use(model);
  } finally {
    await model.dispose();
  }
}

/** Loads a model with a progress bar on stderr, and with `verbose` the log above it. */
async function loadModel(context: Context, settings: LoadSettings): Promise<VllmModel> {
  const bar = new ProgressBar(context.stderr, context.environment);
  const style = styler(context.stderr, context.environment);
  const ignore = () => {};
  const show = (line: string) => bar.log(style("dim", line));
  try {
    const runtime = await findRuntime({ device: settings.device });
    return await VllmModel.load({
      ...toLoadOptions(settings, runtime.device),
      runtime,
      signal: context.signal,
      logger: settings.verbose ? { debug: ignore, info: show, warn: show, error: show } : undefined,
      // Without it the load's times would not be saved for the next progress bar.
      onProgress: (progress) => {
        const at = performance.now();
        if (!settings.quiet) bar.update(() => barState(progress, performance.now() - at));
      },
    });
  } finally {
    bar.end();
  }
}

function toLoadOptions({ source, adapters = [], engine }: LoadSettings, device: Device): VllmModelOptions {
  if (source.kind === "repository") return { modelRepository: source.repository, model: source.name };
  const loras = adapters.flatMap(({ name, path }) => (path === undefined ? [] : [[name, path] as const]));
  // vLLM would compile a model without adapters at each start, which on a CPU takes longer than most conversations.
  const defaults = device === "cpu" ? { enforce_eager: true } : {};
  return {
    engine: { ...defaults, ...engine, model: source.path },
    loras: loras.length === 0 ? undefined : Object.fromEntries(loras),
  };
}

/**
 * Describes a load's progress for the bar, some time after its last step.
 *
 * @param since - milliseconds since that step
 */
export function barState({ phase, adapter, elapsed, fraction, remaining }: LoadProgress, since = 0) {
  const what = adapter === undefined ? PHASES[phase] : `loading the adapter ${adapter}`;
  const seconds = (milliseconds: number) => `${(milliseconds / 1000).toFixed(0)} s`;
  const total = remaining === undefined ? undefined : elapsed + remaining;
  const left = total === undefined || phase === "ready" ? undefined : total - elapsed - since;
  return {
    phase,
    message: `${what} (${seconds(elapsed + since)}${left !== undefined && left >= 500 ? `, about ${seconds(left)} left` : ""})`,
    fraction:
      total === undefined || total === 0 ? fraction : Math.max(fraction, Math.min(0.99, (elapsed + since) / total)),
  };
}
