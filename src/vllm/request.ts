import { resolve } from "node:path";
import { InvalidArgumentError } from "../errors";
import type { InputTensor } from "../server/tensors";
import { describe } from "./describe";
import type { SamplingParameters } from "./sampling";

/** What a request takes beside vLLM's sampling parameters. */
export interface RequestOptions {
  /**
   * The adapter to answer with; left out: the base model. With a path, an adapter that the model does not serve yet is
   * loaded first, and stays loaded.
   */
  lora?: string | { name: string; path: string } | undefined;
  /** Aborting it cancels the request in Triton and in vLLM. */
  signal?: AbortSignal | undefined;
  /** Milliseconds after which the request is cancelled and rejects with {@link DeadlineExceededError}. */
  deadline?: number | undefined;
  /** vLLM's scheduling priority: lower is sooner (engine argument `scheduling_policy: "priority"`). */
  priority?: number | undefined;
  /** Carried through Triton's and vLLM's logs; made up when left out. */
  requestId?: string | undefined;
  /** Images for a vision model: base64 text, or the bytes of an image file. */
  images?: readonly (string | Uint8Array)[] | undefined;
}

/** Options of {@link VllmModel.generate} and {@link VllmModel.stream}: ours in camelCase, vLLM's in its own names. */
export type GenerateOptions = SamplingParameters & RequestOptions;

const own = new Set(["lora", "signal", "deadline", "priority", "requestId", "images"]);

/** A request read and checked, ready for Triton. */
export interface PreparedRequest {
  readonly inputs: InputTensor[];
  readonly parameters: Record<string, string>;
  readonly outputs: string[];
  readonly id: string | undefined;
  readonly signal: AbortSignal | undefined;
  readonly deadline: number | undefined;
}

/**
 * One prompt as the backend takes it from this host: the prompt as a tensor, the rest of the contract's inputs in one
 * request parameter (`HOST_REQUEST` in backends/vllm/tritonode/requests.py), because each tensor has its price.
 *
 * @throws {@link InvalidArgumentError} for a prompt or option that is not usable, before anything is sent.
 */
export function prepareRequest(prompt: string, options: GenerateOptions, stream: boolean): PreparedRequest {
  checkPrompt(prompt);
  if (typeof options !== "object" || options === null) {
    throw new InvalidArgumentError(`options must be an object, got ${describe(options)}`);
  }
  const { lora, signal, deadline, priority, requestId, images } = options;
  const adapter = readLora(lora);
  if (deadline !== undefined && !(typeof deadline === "number" && deadline > 0)) {
    throw new InvalidArgumentError(`deadline must be a number of milliseconds above 0, got ${describe(deadline)}`);
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new InvalidArgumentError(`signal must be an AbortSignal, got ${describe(signal)}`);
  }
  if (requestId !== undefined && typeof requestId !== "string") {
    throw new InvalidArgumentError(`requestId must be a string, got ${describe(requestId)}`);
  }
  // Without a prototype: `__proto__` is a name like any other.
  const parameters: Record<string, unknown> = Object.create(null);
  for (const [name, value] of Object.entries(options)) {
    // JSON.stringify would call a function of the name toJSON.
    if (typeof value === "function") throw new InvalidArgumentError(`the sampling parameter '${name}' is a function`);
    if (!own.has(name) && value !== undefined) parameters[name] = value;
  }
  Object.assign(parameters, adapter);
  if (priority !== undefined) parameters["priority"] = priority;
  const withLogprobs = typeof options.logprobs === "number";
  const flags = ["return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"];
  if (withLogprobs) flags.push("return_logprobs", "return_cumulative_logprob");
  const inputs: InputTensor[] = [{ name: "text_input", datatype: "BYTES", data: [prompt] }];
  if (images !== undefined) inputs.push({ name: "image", datatype: "BYTES", data: encodeImages(images) });
  const request = { stream, sampling_parameters: toJson(parameters), returns: flags };
  return {
    inputs,
    parameters: { tritonode_request: JSON.stringify(request) },
    outputs: ["text_output", ...flags.map((flag) => flag.slice("return_".length))],
    id: requestId,
    signal,
    deadline,
  };
}

/** The adapter as the backend's parameters have it. */
function readLora(lora: unknown): { lora_name?: string; lora_path?: string } {
  if (lora === undefined) return {};
  if (typeof lora === "string" && lora !== "") return { lora_name: lora };
  if (typeof lora === "object" && lora !== null) {
    const { name, path } = lora as { name?: unknown; path?: unknown };
    if (typeof name === "string" && name !== "" && typeof path === "string" && path !== "") {
      return { lora_name: name, lora_path: resolve(path) };
    }
  }
  throw new InvalidArgumentError(`lora must be an adapter's name or { name, path }, got ${describe(lora)}`);
}

function checkPrompt(prompt: unknown): asserts prompt is string {
  if (typeof prompt !== "string") {
    throw new InvalidArgumentError(`the prompt must be a string, got ${describe(prompt)}`);
  }
  if (prompt === "") {
    throw new InvalidArgumentError("the prompt is empty", {
      hint: "a decoder model needs at least one token to go on from",
    });
  }
  if (!prompt.isWellFormed()) {
    const at = [...prompt].findIndex((character) => !character.isWellFormed());
    throw new InvalidArgumentError(`the prompt is not valid UTF-16: a lone surrogate at character ${at}`, {
      hint: "clean it with prompt.toWellFormed()",
    });
  }
}

function toJson(parameters: Record<string, unknown>): string {
  try {
    return JSON.stringify(parameters, (name, value) => {
      if (typeof value === "number" && !Number.isFinite(value)) {
        throw new InvalidArgumentError(`the sampling parameter '${name}' is ${value}, which JSON cannot carry`);
      }
      if (typeof value === "function" || typeof value === "symbol" || typeof value === "bigint") {
        throw new InvalidArgumentError(`the sampling parameter '${name}' is a ${typeof value}`);
      }
      return value;
    });
  } catch (cause) {
    if (cause instanceof InvalidArgumentError) throw cause;
    throw new InvalidArgumentError(`the sampling parameters cannot be written as JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function encodeImages(images: readonly (string | Uint8Array)[]): string[] {
  if (!Array.isArray(images)) throw new InvalidArgumentError(`images must be an array, got ${describe(images)}`);
  return images.map((image, at) => {
    if (typeof image === "string") return image.replace(/^data:[^,]*;base64,/, "");
    if (image instanceof Uint8Array)
      return Buffer.from(image.buffer, image.byteOffset, image.byteLength).toString("base64");
    throw new InvalidArgumentError(`images[${at}] must be base64 text or bytes, got ${describe(image)}`);
  });
}
