import { describe } from "../common/describe";
import { checkLimit } from "../common/duration";
import { InvalidArgumentError } from "../errors";
import type { NativeRequest } from "../native/binding";
import type { InferenceResponse } from "../transport/channel";
import { type InputTensor, toNativeTensor } from "../transport/tensors";

/** A request to any Triton model. */
export interface InferenceRequest {
  /** The model's name. */
  readonly model: string;
  /** Default: the version that the model's version policy chooses. */
  readonly version?: number | undefined;
  /** An id for logs and traces. Default: a random UUID. */
  readonly id?: string | undefined;
  /** Its input tensors, in any order. */
  readonly inputs: readonly InputTensor[];
  /** Names of the outputs to return; default: all. */
  readonly outputs?: readonly string[] | undefined;
  /** Request parameters. Whole numbers are sent as INT64, other numbers as FP64. */
  readonly parameters?: Readonly<Record<string, string | number | bigint | boolean>> | undefined;
  /** Scheduling priority: 1 is the highest; 0 (default) means the model's own default. */
  readonly priority?: number | undefined;
  /** For a stateful model: the sequence that the request belongs to, and whether the request is its first or its last one. */
  readonly sequence?:
    | { readonly id: number | string; readonly start?: boolean | undefined; readonly end?: boolean | undefined }
    | undefined;
  /** Return BYTES outputs as `Uint8Array[]` instead of strings. */
  readonly raw?: boolean | undefined;
  /** Aborting it cancels the request in Triton. */
  readonly signal?: AbortSignal | undefined;
  /**
   * Milliseconds from now until the request is cancelled with a {@link DeadlineExceededError}; at most 2^31 - 1, or
   * `Infinity`.
   */
  readonly deadline?: number | undefined;
  /** Called with each response as it arrives. The stream must not be iterated then. */
  readonly onResponse?: ((response: InferenceResponse | undefined, final: boolean) => void) | undefined;
  /** Merges two responses that have not been read yet, or returns undefined to keep them apart. */
  readonly merge?:
    | ((earlier: InferenceResponse, later: InferenceResponse) => InferenceResponse | undefined)
    | undefined;
  /** How many unread responses may accumulate before the request is cancelled. Default 65,536. */
  readonly maxQueuedResponses?: number | undefined;
}

export const requestNames = Object.keys({
  model: true,
  version: true,
  id: true,
  inputs: true,
  outputs: true,
  parameters: true,
  priority: true,
  sequence: true,
  raw: true,
  signal: true,
  deadline: true,
  onResponse: true,
  merge: true,
  maxQueuedResponses: true,
} satisfies Record<keyof InferenceRequest, true>);

// TRITONSERVER_RequestFlag (tritonserver.h).
const sequenceStart = 1;
const sequenceEnd = 2;

/** @throws {@link InvalidArgumentError} naming what is wrong. */
export function toNativeRequest(request: InferenceRequest, id: string, background = false): NativeRequest {
  if (typeof request !== "object" || request === null) throw new InvalidArgumentError("a request must be an object");
  const { model, version, deadline, priority, sequence, signal, inputs, outputs } = request;
  checkText("model", model);
  if (model === "") throw new InvalidArgumentError("a request needs the name of its model");
  checkText("id", id);
  checkInteger("version", version, 1);
  checkInteger("priority", priority, 0);
  checkInteger("maxQueuedResponses", request.maxQueuedResponses, 1);
  checkFunction("onResponse", request.onResponse);
  checkFunction("merge", request.merge);
  checkLimit("deadline", deadline);
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw new InvalidArgumentError(`signal must be an AbortSignal, not ${describe(signal)}`);
  }
  if (!Array.isArray(inputs)) throw new InvalidArgumentError("inputs must be an array of tensors");
  if (outputs !== undefined) {
    if (!Array.isArray(outputs)) throw new InvalidArgumentError("outputs must be an array of names");
    for (const name of outputs) checkText("an output's name", name);
  }
  return {
    model,
    version,
    id,
    priority,
    flags: (sequence?.start ? sequenceStart : 0) | (sequence?.end ? sequenceEnd : 0),
    correlationId: sequenceId(sequence),
    inputs: inputs.map(toNativeTensor),
    outputs: outputs === undefined ? undefined : [...outputs],
    parameters: toNativeParameters(request.parameters ?? {}),
    raw: request.raw ?? false,
    background,
  };
}

function sequenceId(sequence: InferenceRequest["sequence"]): number | string | undefined {
  if (sequence === undefined || sequence === null) return undefined;
  const { id } = sequence;
  if (typeof id === "string") checkText("the sequence's id", id);
  else checkInteger("the sequence's id", id ?? null, 1);
  return id;
}

/** Names and values alternately. */
function toNativeParameters(parameters: NonNullable<InferenceRequest["parameters"]>): unknown[] {
  if (typeof parameters !== "object") throw new InvalidArgumentError("parameters must be an object");
  const native: unknown[] = [];
  for (const [name, value] of Object.entries(parameters)) {
    checkText("a parameter's name", name);
    if (typeof value === "string") {
      checkText(`the request parameter '${name}'`, value);
    } else if (typeof value === "bigint" ? BigInt.asIntN(64, value) !== value : !isNumberOrBoolean(value)) {
      throw new InvalidArgumentError(
        `the request parameter '${name}' must be a string, a number, a boolean or a bigint of 64 bits, not ${describe(value)}`,
      );
    }
    native.push(name, value);
  }
  return native;
}

function isNumberOrBoolean(value: unknown): boolean {
  return typeof value === "boolean" || (typeof value === "number" && !Number.isNaN(value));
}

/** Triton takes these as C strings: what follows a NUL would silently be cut off. */
function checkText(name: string, value: unknown): void {
  if (typeof value !== "string" || value.includes("\0")) {
    throw new InvalidArgumentError(`${name} must be a string without NUL, not ${describe(value)}`);
  }
}

function checkFunction(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "function") {
    throw new InvalidArgumentError(`${name} must be a function, not ${describe(value)}`);
  }
}

function checkInteger(name: string, value: unknown, min: number): void {
  if (value === undefined) return;
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < min) {
    throw new InvalidArgumentError(`${name} must be an integer of at least ${min}, not ${describe(value)}`);
  }
}
