import { randomBytes } from "node:crypto";
import { unlinkSync } from "node:fs";
import { Socket } from "node:net";
import { join } from "node:path";
import { loadAddon } from "../native/binding";
import { type CallHandler, noParameters } from "./channel";
import type { Tensor } from "./tensors";

/** One entry of the channel: the request's token, 1 on its last entry, and further values that depend on the request. */
export type DeltaEntry = readonly [token: string, final: 0 | 1, ...rest: unknown[]];

/** Turns an entry into the outputs of a response. */
export type ReadEntry = (entry: DeltaEntry) => Record<string, Tensor>;

interface Receiver {
  readonly handler: CallHandler;
  readonly read: ReadEntry;
}

/** Milliseconds that a model may take to open the channel. */
const openLimit = 10_000;
/** Milliseconds to wait after a failure before the next attempt, because each attempt costs a request. */
const retryDelay = 5_000;

/** The request that represents an open channel. */
export interface ChannelRequest {
  /** Settles when the backend has ended it. */
  readonly finished: Promise<void>;
  cancel(): void;
}

/**
 * Sends the request that opens a channel: the backend makes a FIFO of that name in the private directory, answers, and
 * leaves the request open. `onAnswer` is called with that answer.
 */
export type OpenChannel = (name: string, onAnswer: () => void) => ChannelRequest;

/**
 * The pieces of all streams of a model, through a FIFO that its child writes once for each step of the engine
 * (backends/vllm/tritonode/triton/deltas.py). A Triton request that stays open represents it.
 *
 * While it is not open (for example, the engine has just died), Triton's responses answer each request, as for any client.
 */
export class DeltaChannel {
  readonly #model: string;
  readonly #directory: string;
  readonly #send: OpenChannel;
  readonly #receivers = new Map<string, Receiver>();
  #name: string | undefined;
  #request: ChannelRequest | undefined;
  #pipe: Socket | undefined;
  #rest = "";
  #retryAt = 0;

  /** @param directory - the server's private directory, where the FIFO is made */
  constructor(model: string, directory: string, send: OpenChannel) {
    this.#model = model;
    this.#directory = directory;
    this.#send = send;
  }

  /** The name that a request passes to use the channel. Undefined while it is not open; reading it then opens the channel. */
  get name(): string | undefined {
    if (this.#name === undefined && performance.now() >= this.#retryAt) this.open().catch(() => {});
    return this.#name;
  }

  /** Resolves when the channel is open, or cannot be opened. */
  async open(): Promise<void> {
    if (this.#request !== undefined) return;
    const name = `channel-${randomBytes(9).toString("base64url")}`;
    let opened = (): void => {};
    const ready = new Promise<void>((resolve) => {
      opened = resolve;
    });
    const request = this.#send(name, () => {
      if (this.#request === request) this.#start(name);
      opened();
    });
    this.#request = request;
    request.finished
      .catch(() => {})
      .finally(() => {
        if (this.#request === request) this.#end("the backend ended it", 0);
        opened();
      });
    // Limits the wait, and keeps the process alive meanwhile, which a background request does not.
    const timer = setTimeout(() => this.#end("it was not opened in time"), openLimit);
    await ready;
    clearTimeout(timer);
  }

  /** Reads from the FIFO. If it can't be opened (too many open files, for example), requests do without the channel. */
  #start(name: string): void {
    try {
      this.#read(name);
    } catch (error) {
      this.#end(error instanceof Error ? error.message : String(error));
    }
  }

  #read(name: string): void {
    const path = join(this.#directory, name);
    const pipe = new Socket({ fd: loadAddon().openFifo(path), readable: true, writable: false });
    try {
      unlinkSync(path);
    } catch (error) {
      pipe.destroy();
      throw error;
    }
    // The streams keep the process alive, each while it runs (TritonServer.infer).
    pipe.unref();
    pipe.setEncoding("utf8");
    pipe.on("data", (text: string) => {
      try {
        this.#take(text);
      } catch (error) {
        this.#end(`it delivered something other than pieces: ${(error as Error).message}`);
      }
    });
    // The pipe ends when the child dies, which is reported elsewhere.
    pipe.on("error", () => {});
    this.#pipe = pipe;
    this.#name = name;
  }

  /** Passes the pieces of a request to its handler, until the returned function is called. */
  add(token: string, handler: CallHandler, read: ReadEntry): () => void {
    this.#receivers.set(token, { handler, read });
    return () => this.#receivers.delete(token);
  }

  /** Closes the channel. No stream may be using it. */
  close(): void {
    const request = this.#request;
    this.#request = undefined;
    this.#name = undefined;
    this.#rest = "";
    this.#pipe?.destroy();
    this.#pipe = undefined;
    request?.cancel();
  }

  /** Closes the channel after a failure. The streams that use it fail, because they would get nothing more. */
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
    // A cancelled request has no receiver any more.
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
