import { randomBytes } from "node:crypto";
import type { InferenceRequest, InferenceResponse, ResponseStream } from "../server";
import type { CallHandler } from "../server/channel";
import type { Tensor } from "../server/tensors";

/** One entry of the channel: the request's token, 1 on its last entry, and what the request's kind makes of the rest. */
export type DeltaEntry = readonly [token: string, final: 0 | 1, ...rest: unknown[]];

/** Makes the outputs of a response of an entry. */
export type ReadEntry = (entry: DeltaEntry) => Record<string, Tensor>;

interface Receiver {
  readonly handler: CallHandler;
  readonly read: ReadEntry;
}

/** Milliseconds that a model may take to open the channel; without it requests are answered one by one. */
const openLimit = 10_000;

const noParameters: InferenceResponse["parameters"] = Object.freeze({});

/**
 * The pieces of all streams of a model, in one message for each step of the engine (backends/vllm/tritonode/deltas.py):
 * a request of Triton that stays open, whose responses carry what belongs to the others.
 *
 * Where it is not open (its engine has just died), requests are answered one by one, as any client's are.
 */
export class DeltaChannel {
  readonly #model: string;
  readonly #infer: (request: Omit<InferenceRequest, "model">) => ResponseStream;
  readonly #receivers = new Map<string, Receiver>();
  #name: string | undefined;
  #stream: ResponseStream | undefined;

  constructor(model: string, infer: (request: Omit<InferenceRequest, "model">) => ResponseStream) {
    this.#model = model;
    this.#infer = infer;
  }

  /** The parameters that lead a request's pieces here; none while the channel is not open, which opens it for later. */
  get parameters(): Record<string, string> | undefined {
    if (this.#name === undefined) this.open().catch(() => {});
    return this.#name === undefined ? undefined : { tritonode_channel: this.#name };
  }

  /** Resolves when the channel is open, or can't be. */
  async open(): Promise<void> {
    if (this.#stream !== undefined) return;
    const name = randomBytes(9).toString("base64url");
    const stream = await new Promise<ResponseStream>((settle) => {
      // A background request would not keep the process alive that waits for this.
      const timer = setTimeout(() => this.close(), openLimit);
      const resolve = (opened: ResponseStream) => {
        clearTimeout(timer);
        settle(opened);
      };
      const opened = this.#infer({
        inputs: [{ name: "text_input", datatype: "BYTES", data: [""] }],
        outputs: ["text_output"],
        parameters: { tritonode_open_channel: name },
        background: true,
        onResponse: (response) => {
          // The first one says that it is open.
          if (this.#stream === opened && response !== undefined) this.#name = name;
          resolve(opened);
          this.#take(response);
        },
      });
      this.#stream = opened;
      opened.finished.catch(() => {}).finally(() => resolve(opened));
    });
    stream.finished
      .catch(() => {})
      .finally(() => {
        if (this.#stream === stream) this.close();
      });
  }

  /** Gives the pieces of a request to its handler; the returned function ends that. */
  add(token: string, handler: CallHandler, read: ReadEntry): () => void {
    this.#receivers.set(token, { handler, read });
    return () => this.#receivers.delete(token);
  }

  /** Ends the channel; streams that are not over get nothing more. */
  close(): void {
    const stream = this.#stream;
    this.#stream = undefined;
    this.#name = undefined;
    stream?.cancel();
  }

  #take(response: InferenceResponse | undefined): void {
    const text = response?.outputs["text_output"]?.data[0];
    if (response === undefined || typeof text !== "string") return;
    for (const entry of JSON.parse(text) as DeltaEntry[]) {
      // One that was cancelled has left.
      const receiver = this.#receivers.get(entry[0]);
      if (receiver === undefined) continue;
      const { handler, read } = receiver;
      const final = entry[1] === 1;
      handler.onResponse(
        {
          model: this.#model,
          version: response.version,
          id: handler.id,
          parameters: noParameters,
          outputs: read(entry),
          final,
        },
        final,
      );
    }
  }
}

function tensor(name: string, datatype: Tensor["datatype"], data: Tensor["data"]): Tensor {
  return { name, datatype, shape: [data.length], data };
}

/** A piece of a generated text; see `ResponseState.take_entry` in backends/vllm/tritonode/responses.py. */
export function readTextEntry(entry: DeltaEntry): Record<string, Tensor> {
  const [, , texts, reasons, tokens, promptTokens, cumulative, logprobs] = entry as unknown as [
    string,
    number,
    string[],
    string[],
    number[],
    number,
    number[] | undefined,
    string[] | undefined,
  ];
  const outputs: Record<string, Tensor> = {
    text_output: tensor("text_output", "BYTES", texts),
    finish_reason: tensor("finish_reason", "BYTES", reasons),
    num_output_tokens: tensor("num_output_tokens", "UINT32", tokens),
    num_input_tokens: tensor("num_input_tokens", "UINT32", [promptTokens]),
  };
  if (cumulative !== undefined && logprobs !== undefined) {
    outputs["cumulative_logprob"] = tensor("cumulative_logprob", "FP32", cumulative);
    outputs["logprobs"] = tensor("logprobs", "BYTES", logprobs);
  }
  return outputs;
}
