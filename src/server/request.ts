import { InvalidArgumentError } from "../errors";
import type { NativeRequest } from "./binding";
import type { InferenceResponse } from "./channel";
import { type InputTensor, toNativeTensor } from "./tensors";

export interface InferenceRequest {
  readonly model: string;
  /** Default: what the model's version policy chooses. */
  readonly version?: number | undefined;
  /** For logs and traces; default: a random UUID. */
  readonly id?: string | undefined;
  readonly inputs: readonly InputTensor[];
  /** Names of the outputs to return; default: all. */
  readonly outputs?: readonly string[] | undefined;
  /** Request parameters. Integral numbers travel as INT64, others as FP64. */
  readonly parameters?: Readonly<Record<string, string | number | bigint | boolean>> | undefined;
  /** Scheduling priority, 1 being the highest; 0 (default) is the model's own default. */
  readonly priority?: number | undefined;
  /** Sequence of a stateful model that the request belongs to, and whether it is the first or last of it. */
  readonly sequence?:
    | { readonly id: number | string; readonly start?: boolean | undefined; readonly end?: boolean | undefined }
    | undefined;
  /** Give BYTES outputs as `Uint8Array[]` instead of strings. */
  readonly raw?: boolean | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds from now until the request is cancelled with a {@link DeadlineExceededError}. */
  readonly deadline?: number | undefined;
  /** Gets each response as it comes; the stream is not to be iterated then. */
  readonly onResponse?: ((response: InferenceResponse | undefined, final: boolean) => void) | undefined;
  /** Called once if the request is cancelled while it runs, after Triton was asked to: some backends can be told sooner. */
  readonly onCancel?: (() => void) | undefined;
  /** Joins two responses that wait unread; undefined keeps them apart. */
  readonly merge?:
    | ((earlier: InferenceResponse, later: InferenceResponse) => InferenceResponse | undefined)
    | undefined;
  /** Responses that may wait unread before the request is given up. Default 65,536. */
  readonly maxQueuedResponses?: number | undefined;
}

// TRITONSERVER_RequestFlag (tritonserver.h).
const sequenceStart = 1;
const sequenceEnd = 2;

/** setTimeout's own limit; a longer delay would fire at once. */
const maxDelay = 2 ** 31 - 1;

/** @throws {@link InvalidArgumentError} naming what is wrong. */
export function toNativeRequest(request: InferenceRequest, id: string): NativeRequest {
  const { model, version, deadline, priority, sequence, maxQueuedResponses } = request;
  if (typeof model !== "string" || model === "")
    throw new InvalidArgumentError("a request needs the name of its model");
  checkInteger("version", version, 1, Number.MAX_SAFE_INTEGER);
  checkInteger("priority", priority, 0, Number.MAX_SAFE_INTEGER);
  checkInteger("maxQueuedResponses", maxQueuedResponses, 1, Number.MAX_SAFE_INTEGER);
  if (deadline !== undefined && !(typeof deadline === "number" && deadline > 0 && deadline <= maxDelay)) {
    throw new InvalidArgumentError(`deadline must be milliseconds from 1 to ${maxDelay}, not ${String(deadline)}`);
  }
  if (request.signal !== undefined && !(request.signal instanceof AbortSignal)) {
    throw new InvalidArgumentError("signal must be an AbortSignal");
  }
  if (!Array.isArray(request.inputs)) throw new InvalidArgumentError("inputs must be an array of tensors");
  const parameters: unknown[] = [];
  for (const [name, value] of Object.entries(request.parameters ?? {})) {
    if (!["string", "boolean", "bigint", "number"].includes(typeof value) || Number.isNaN(value)) {
      throw new InvalidArgumentError(`the request parameter '${name}' must be a string, number, bigint or boolean`);
    }
    parameters.push(name, value);
  }
  return {
    model,
    version,
    id,
    priority,
    flags: (sequence?.start ? sequenceStart : 0) | (sequence?.end ? sequenceEnd : 0),
    correlationId: sequence?.id,
    inputs: request.inputs.map(toNativeTensor),
    outputs: request.outputs === undefined ? undefined : [...request.outputs],
    parameters,
    raw: request.raw ?? false,
  };
}

function checkInteger(name: string, value: unknown, min: number, max: number): void {
  if (value === undefined) return;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min || value > max) {
    throw new InvalidArgumentError(`${name} must be an integer of at least ${min}, not ${String(value)}`);
  }
}
