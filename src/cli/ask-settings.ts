import { InvalidArgumentError } from "../errors";
import { integer, jsonObject } from "./arguments";
import { type SamplingFlags, samplingOf } from "./ask";
import type { LoadSettings } from "./model";
import { type AdapterSource, findAdapters, findModel, type ModelSource } from "./model-source";

/** The options that `run` and `chat` share, as they are parsed. */
export interface AskFlags extends SamplingFlags {
  model?: string | undefined;
  "model-repository"?: string | undefined;
  lora?: string[] | undefined;
  system?: string | undefined;
  raw: boolean;
  context?: string | undefined;
  engine?: string | undefined;
  device?: "cpu" | "cuda" | undefined;
  quiet: boolean;
  verbose: boolean;
}

/** The parsed options: which model to load, and the settings of its requests. */
export interface AskSettings {
  readonly load: LoadSettings & { readonly adapters: readonly AdapterSource[] };
  readonly sampling: Record<string, unknown>;
  readonly system: string | undefined;
  readonly raw: boolean;
  readonly quiet: boolean;
}

/** Whether an option names the model, instead of the first argument. */
export function namesModel(flags: AskFlags): boolean {
  return flags.model !== undefined || flags["model-repository"] !== undefined;
}

/**
 * Reads the options that `run` and `chat` share.
 *
 * @param positional - the model, if no option names it
 * @throws {@link InvalidArgumentError}, before anything is loaded
 */
export function askSettings(flags: AskFlags, positional: string | undefined): AskSettings {
  const source = sourceOf(flags, positional);
  const engine = {
    ...(flags.engine === undefined ? {} : jsonObject("--engine", flags.engine)),
    ...(flags.context === undefined ? {} : { max_model_len: integer("--context", flags.context, 1) }),
  };
  const [argument] = Object.keys(engine);
  if (argument !== undefined && source.kind === "repository") {
    throw new InvalidArgumentError(`a model repository has its engine arguments in model.json: set ${argument} there`);
  }
  return {
    load: {
      source,
      adapters: findAdapters(flags.lora ?? [], source),
      engine,
      device: flags.device,
      verbose: flags.verbose,
      quiet: flags.quiet,
    },
    sampling: samplingOf(flags),
    system: flags.system,
    raw: flags.raw,
    quiet: flags.quiet,
  };
}

function sourceOf(flags: AskFlags, positional: string | undefined): ModelSource {
  const { model, "model-repository": repository } = flags;
  if (repository !== undefined) return { kind: "repository", repository, name: model };
  return findModel(model ?? positional);
}
