import { delimiter, join, resolve } from "node:path";
import { InvalidArgumentError, TritonodeError } from "../errors";
import { packageRoot } from "../package-root";
import { findRuntime } from "../runtime";
import { run } from "../runtime/process";

/** The description of a model from its files, without loading it (backends/vllm/tritonode/describe.py). */
export interface ModelDescription {
  readonly path: string;
  readonly kind: "folder" | "gguf";
  readonly architecture: string | null;
  /** The number of elements in the weights, in all and by type; for packed formats, the number of stored elements. */
  readonly parameters: number;
  readonly types: Readonly<Record<string, number>>;
  readonly quantization: string | null;
  readonly bytes: number;
  readonly layers: number | null;
  readonly hidden_size: number | null;
  readonly vocabulary: number | null;
  /** The longest sequence that the model was made for, in tokens. */
  readonly context: number | null;
  readonly chat_template: boolean;
  /** The reasons why it can't be served, as far as the files show. */
  readonly problems: readonly string[];
}

/** The description of an adapter from its files, without loading it. */
export interface AdapterDescription {
  readonly path: string;
  readonly loadable: boolean;
  readonly problems: readonly string[];
  readonly rank?: number;
  readonly alpha?: number;
  readonly target_modules?: readonly string[];
  readonly base_model?: string | null;
  readonly size_bytes?: number;
  readonly dtype?: string;
}

export interface DescribeOptions {
  readonly environment: NodeJS.ProcessEnv;
  readonly signal: AbortSignal;
}

/** Reads the files of a Hugging Face folder or a GGUF file. @throws {@link InvalidArgumentError} for anything else */
export async function describeModel(path: string, options: DescribeOptions): Promise<ModelDescription> {
  const [description] = await describe<ModelDescription>(["model", resolve(path)], options);
  if (description !== undefined) return description;
  throw new TritonodeError("ERR_INTERNAL", `nothing was said about ${path}`);
}

/**
 * Reads adapters' folders, and says whether each can be served.
 *
 * @param model - the base model that they must fit (default: any)
 */
export function describeAdapters(
  paths: readonly string[],
  model: string | undefined,
  options: DescribeOptions,
): Promise<AdapterDescription[]> {
  const base = model === undefined ? [] : ["--model", resolve(model)];
  return describe(["adapters", ...base, "--", ...paths.map((path) => resolve(path))], options);
}

async function describe<T>(args: readonly string[], { environment, signal }: DescribeOptions): Promise<T[]> {
  const { python } = await findRuntime();
  const result = await run(python, ["-m", "tritonode.describe", ...args], {
    environment: {
      ...environment,
      PYTHONPATH: [join(packageRoot(), "backends", "vllm"), environment["PYTHONPATH"] ?? ""]
        .filter((folder) => folder !== "")
        .join(delimiter),
    },
    signal,
  });
  const lines = result.stdout.split("\n").filter((line) => line.startsWith("{"));
  const values = lines.map((line) => JSON.parse(line) as T & { error?: string });
  const refused = values.find(({ error }) => error !== undefined)?.error;
  if (refused !== undefined) throw new InvalidArgumentError(refused);
  if (result.code === 0) return values;
  throw new TritonodeError("ERR_INTERNAL", `the Python that reads models ended with ${result.code ?? result.signal}`, {
    hint: result.stderr.trimEnd().split("\n").slice(-5).join("\n"),
  });
}
