import { type LoadProgress, VllmModel } from "../model";
import type { Context } from "./context";
import { ProgressBar } from "./progress-bar";
import { styler } from "./terminal";

/** What the commands need of a loaded model: the part of {@link VllmModel} that they call. */
export interface TextModel {
  generate(prompt: string, options: Record<string, unknown>): Promise<{ text: string }>;
  stream(prompt: string, options: Record<string, unknown>): AsyncIterable<{ text: string; index: number }>;
}

/** The phases of a load in words. */
const PHASES: Readonly<Record<LoadProgress["phase"], string>> = {
  start: "starting Triton",
  import: "importing vLLM",
  "check-adapters": "checking the adapters",
  "load-model": "loading the weights",
  "load-adapter": "loading the adapters",
  "warm-up": "warming up",
  ready: "ready",
};

interface ModelOptions {
  modelRepository: string;
  model: string | undefined;
  verbose: boolean;
}

/** Loads a model, calls `use` with it, and disposes of it. */
export async function withModel<T>(
  context: Context,
  options: ModelOptions,
  use: (model: VllmModel) => Promise<T>,
): Promise<T> {
  const model = await loadModel(context, options);
  try {
    return await use(model);
  } finally {
    await model.dispose();
  }
}

/** Loads a model with a progress bar on stderr, the log above it where `verbose`. */
async function loadModel(context: Context, options: ModelOptions): Promise<VllmModel> {
  const bar = new ProgressBar(context.stderr, context.environment);
  const style = styler(context.stderr, context.environment);
  const quiet = () => {};
  const show = (line: string) => bar.log(style("dim", line));
  try {
    return await VllmModel.load({
      modelRepository: options.modelRepository,
      model: options.model,
      signal: context.signal,
      logger: options.verbose ? { debug: quiet, info: show, warn: show, error: show } : undefined,
      onProgress: (progress) => {
        const at = performance.now();
        bar.update(() => barState(progress, performance.now() - at));
      },
    });
  } finally {
    bar.end();
  }
}

/**
 * A load's progress as the bar shows it, some time after its last step.
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
