import type { InferenceResponse, ResponseStream } from "../../server";
import type { DeltaEntry } from "../../transport/deltas";
import { type Tensor, tensor } from "../../transport/tensors";
import type { Backend, BackendRequest } from "../backend";

/** The head of an HTTP request, in the form that the backend accepts (backends/vllm/tritonode/openai/http.py). */
export interface RequestHead {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  /** Maximum number of bytes of the response's body that are sent before they are read. */
  readonly window: number;
}

/** The head of the response: the first element of the first response. */
export interface ResponseHead {
  readonly status: number;
  readonly headers: [name: string, value: string][];
}

const output = "http_response";

/** Sends an HTTP request through Triton, whose responses contain the HTTP response. */
export function sendHttp(backend: Backend, head: RequestHead, body: Uint8Array | undefined): ResponseStream {
  const parts = body === undefined ? [encode(head)] : [encode(head), body];
  return backend.send({ ...httpRequest(parts), read: readHttpEntry });
}

/** Tells the backend how much of a response's body was read. Errors of sending this are ignored. */
export function sendRead(backend: Backend, id: string, bytes: number): void {
  try {
    backend.tell(httpRequest([encode({ read: id, bytes })])).finished.catch(() => {});
  } catch {
    // The model is gone, and the response with it.
  }
}

function httpRequest(parts: Uint8Array[]): BackendRequest {
  return {
    inputs: [
      { name: "text_input", datatype: "BYTES", data: [""] },
      { name: "http_request", datatype: "BYTES", data: parts },
    ],
    outputs: [output],
    raw: true,
    merge: joinParts,
  };
}

function encode(value: object): Uint8Array {
  return Buffer.from(JSON.stringify(value));
}

/** Reads pieces from the channel: a character for each byte (backends/vllm/tritonode/openai/http.py). */
function readHttpEntry(entry: DeltaEntry): Record<string, Tensor> {
  const data = (entry[2] as string[]).map((part) => Buffer.from(part, "latin1"));
  return { [output]: tensor(output, "BYTES", data) };
}

/** The pieces in a response. */
export function partsOf(response: InferenceResponse): Uint8Array[] {
  return (response.outputs[output]?.data ?? []) as Uint8Array[];
}

/** Joins two unread responses by concatenating their pieces. */
function joinParts(earlier: InferenceResponse, later: InferenceResponse): InferenceResponse | undefined {
  const tensor = earlier.outputs[output];
  if (tensor === undefined) return undefined;
  // Appended in place: otherwise an unread stream would take time quadratic in its length.
  (tensor.data as Uint8Array[]).push(...partsOf(later));
  return { ...later, outputs: { [output]: tensor } };
}
