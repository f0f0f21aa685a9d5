import { randomBytes } from "node:crypto";
import { closeSync, constants, openSync, unlinkSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import type { InferenceRequest, ResponseStream } from "../server";
import { type CallHandler, noParameters } from "./channel";
import type { Tensor } from "./tensors";

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
/** Milliseconds before it is tried again after a failure: each attempt costs a request. */
const retryDelay = 5_000;

type Infer = (request: Omit<InferenceRequest, "model">) => ResponseStream;

/**
 * The pieces of all streams of a model, through a FIFO that its child writes once for each step of the engine
 * (backends/vllm/tritonode/deltas.py). A request of Triton that stays open stands for it.
 *
 * Where it is not open (its engine has just died), requests are answered one by one, as any client's are.
 */
export class DeltaChannel {
  readonly #model: string;
  readonly #directory: string;
  readonly #infer: Infer;
  readonly #receivers = new Map<string, Receiver>();
  #name: string | undefined;
  #request: ResponseStream | undefined;
  #pipe: Socket | undefined;
  #rest = "";
  #retryAt = 0;

  /** @param directory the server's private one, where the FIFO is made */
  constructor(model: string, directory: string, infer: Infer) {
    this.#model = model;
    this.#directory = directory;
    this.#infer = infer;
  }

  /** The parameters that lead a request's pieces here; none while the channel is not open, which opens it for later. */
  get parameters(): Record<string, string> | undefined {
    if (this.#name === undefined && performance.now() >= this.#retryAt) this.open().catch(() => {});
    return this.#name === undefined ? undefined : { tritonode_channel: this.#name };
  }

  /** Resolves when the channel is open, or can't be. */
  async open(): Promise<void> {
    if (this.#request !== undefined) return;
    const name = `channel-${randomBytes(9).toString("base64url")}`;
    let opened = (): void => {};
    const ready = new Promise<void>((resolve) => {
      opened = resolve;
    });
    const request = this.#infer({
      inputs: [{ name: "text_input", datatype: "BYTES", data: [""] }],
      outputs: ["text_output"],
      parameters: { tritonode_open_channel: name },
      background: true,
      onResponse: (response) => {
        if (response !== undefined && this.#request === request) this.#start(name);
        opened();
      },
    });
    this.#request = request;
    request.finished
      .catch(() => {})
      .finally(() => {
        if (this.#request === request) this.#end("the backend ended it", 0);
        opened();
      });
    // Bounds the wait, and keeps the process alive for it, which a background request does not.
    const timer = setTimeout(() => this.#end("it was not opened in time"), openLimit);
    await ready;
    clearTimeout(timer);
  }

  /** Reads from the FIFO; where that can't be opened (no descriptor is left, say) requests are answered one by one. */
  #start(name: string): void {
    try {
      this.#read(name);
    } catch (error) {
      this.#end(error instanceof Error ? error.message : String(error));
    }
  }

  #read(name: string): void {
    const path = join(this.#directory, name);
    const descriptor = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    let pipe: Socket;
    try {
      unlinkSync(path);
      pipe = new Socket({ fd: descriptor, readable: true, writable: false });
    } catch (error) {
      closeSync(descriptor);
      throw error;
    }
    // The streams keep the process alive, each while it runs (TritonServer.infer).
    pipe.unref();
    pipe.setEncoding("utf8");
    pipe.on("data", (text: string) => {
      try {
        this.#take(text);
      } catch (error) {
        this.#end(`it brought something else than pieces: ${(error as Error).message}`);
      }
    });
    // The child's end is its death, and told as such by others.
    pipe.on("error", () => {});
    this.#pipe = pipe;
    this.#name = name;
  }

  /** Gives the pieces of a request to its handler; the returned function ends that. */
  add(token: string, handler: CallHandler, read: ReadEntry): () => void {
    this.#receivers.set(token, { handler, read });
    return () => this.#receivers.delete(token);
  }

  /** Ends the channel, when no stream needs it any more. */
  close(): void {
    const request = this.#request;
    this.#request = undefined;
    this.#name = undefined;
    this.#rest = "";
    this.#pipe?.destroy();
    this.#pipe = undefined;
    request?.cancel();
  }

  /** Ends the channel though streams may need it: they get nothing more, and must not wait for it. */
  #end(reason: string, pause = retryDelay): void {
    this.#retryAt = performance.now() + pause;
    this.close();
    for (const { handler } of [...this.#receivers.values()]) {
      handler.onFailure("INTERNAL", `the channel of the model's pieces has ended: ${reason}`, false);
    }
  }

  #take(text: string): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop() as string;
    for (const line of lines) {
      for (const entry of JSON.parse(line) as DeltaEntry[]) this.#deliver(entry);
    }
  }

  #deliver(entry: DeltaEntry): void {
    // One that was cancelled has left.
    const receiver = this.#receivers.get(entry[0]);
    if (receiver === undefined) return;
    const { handler, read } = receiver;
    const final = entry[1] === 1;
    handler.onResponse(
      { model: this.#model, version: -1, id: handler.id, parameters: noParameters, outputs: read(entry), final },
      final,
    );
  }
}

/** An output of one dimension. */
export function tensor(name: string, datatype: Tensor["datatype"], data: Tensor["data"]): Tensor {
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
