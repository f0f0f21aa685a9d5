import { type LoadProgress, VllmModel } from "../model";
import type { Context } from "./context";
import { ProgressBar } from "./progress-bar";
import { styler } from "./terminal";

/** What the commands need of a loaded model: the part of {@link VllmModel} that they call. */
export interface TextModel {
  generate(prompt: string, options: Record<string, unknown>): Promise<{ text: string }>;
  stream(prompt: string, options: Record<string, unknown>): AsyncIterable<{ text: string; index: number }>;
}

/** The phases of a load with the share of its time that each ends at, measured with SmolLM2 on two cores. */
const PHASES: Readonly<Record<LoadProgress["phase"], readonly [end: number, text: string]>> = {
  start: [0.05, "starting Triton"],
  import: [0.55, "importing vLLM"],
  "check-adapters": [0.58, "checking the adapters"],
  "load-model": [0.8, "loading the weights"],
  "load-adapter": [0.88, "loading the adapters"],
  "warm-up": [0.98, "warming up"],
  ready: [1, "ready"],
};

interface ModelOptions {
  modelRepository: string;
  model: string | undefined;
  verbose: boolean;
}

/** Loads a model for as long as `use` needs it. */
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
      onProgress: (progress) => bar.update(barState(progress)),
    });
  } finally {
    bar.end();
  }
}

/** A load's progress as the bar shows it: the share of the phases done, and of the steps within the one at hand. */
export function barState({ phase, adapter, done, total, elapsed }: LoadProgress) {
  const names = Object.keys(PHASES) as LoadProgress["phase"][];
  const before = names[names.indexOf(phase) - 1];
  const from = before === undefined ? 0 : PHASES[before][0];
  const [to, text] = PHASES[phase];
  const part = done !== undefined && total ? done / total : 0;
  const what = adapter === undefined ? text : `loading the adapter ${adapter}`;
  return {
    phase,
    message: `${what} (${(elapsed / 1000).toFixed(0)} s)`,
    fraction: phase === "ready" ? 1 : from + (to - from) * part,
  };
}
