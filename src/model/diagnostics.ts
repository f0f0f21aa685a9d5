import { channel } from "node:diagnostics_channel";
import type { CheckedOptions } from "./options";
import type { GenerateResult, Usage } from "./results";
import type { StreamWatcher } from "./stream";

/**
 * The message of the channels `tritonode:request:start`, `:first-token`, `:end` and `:error` of `node:diagnostics_channel`. All
 * of them publish the same object for a request, and fields are set as the request proceeds. It can be the key of a WeakMap.
 */
export interface RequestDiagnostics {
  /** The model's name in Triton. */
  readonly model: string;
  /** The method that was called. */
  readonly operation: "generate" | "chat" | "embeddings" | "fetch";
  /** The adapter's name; undefined for the base model. */
  readonly adapter: string | undefined;
  /** Whether the answer is streamed. */
  readonly streaming: boolean;
  /** vLLM's own fields of the request, without the prompt; of `fetch` its method and path. */
  readonly parameters: Readonly<Record<string, unknown>>;
  /** Set at `first-token` of a streamed request, milliseconds. */
  timeToFirstToken?: number;
  /** Set at `end` and `error`, milliseconds. For `fetch`: until the response's headers. */
  duration?: number;
  /** Set at `end`, if it is known. */
  usage?: Usage;
  /** Set at `end`: why each choice ended. */
  finishReasons?: readonly string[];
  /** Set at `end` for `fetch`. */
  status?: number;
  /** Set at `error`. */
  error?: unknown;
}

/** What the channels `tritonode:load:start`, `:end` and `:error` publish, as one object. */
export interface LoadDiagnostics {
  /** The model's name in Triton. */
  readonly model: string;
  /** Set at `end` and `error`, milliseconds. */
  duration?: number;
  /** Set at `error`. */
  error?: unknown;
}

const request = {
  start: channel("tritonode:request:start"),
  firstToken: channel("tritonode:request:first-token"),
  end: channel("tritonode:request:end"),
  error: channel("tritonode:request:error"),
};
const load = {
  start: channel("tritonode:load:start"),
  end: channel("tritonode:load:end"),
  error: channel("tritonode:load:error"),
};

/** Publishes the messages of one request. Each message is published at most once. */
export class RequestTrace {
  readonly #message: RequestDiagnostics;
  readonly #began = performance.now();
  #ended = false;

  constructor(message: RequestDiagnostics) {
    this.#message = message;
    request.start.publish(message);
  }

  firstToken(): void {
    if (this.#ended || this.#message.timeToFirstToken !== undefined) return;
    this.#message.timeToFirstToken = performance.now() - this.#began;
    request.firstToken.publish(this.#message);
  }

  end(details: Partial<Pick<RequestDiagnostics, "usage" | "finishReasons" | "status">>): void {
    if (this.#finish()) request.end.publish(Object.assign(this.#message, details));
  }

  fail(error: unknown): void {
    if (this.#finish()) request.error.publish(Object.assign(this.#message, { error }));
  }

  #finish(): boolean {
    if (this.#ended) return false;
    this.#ended = true;
    this.#message.duration = performance.now() - this.#began;
    return true;
  }
}

/** Begins the trace of a request. Returns undefined, without any work, if no channel has a subscriber. */
export function trace(message: () => RequestDiagnostics): RequestTrace | undefined {
  const { start, firstToken, end, error } = request;
  const heard = start.hasSubscribers || firstToken.hasSubscribers || end.hasSubscribers || error.hasSubscribers;
  return heard ? new RequestTrace(message()) : undefined;
}

/** Traces a request that answers at once. */
export async function traced<T>(
  begun: RequestTrace | undefined,
  run: () => Promise<T>,
  details: (result: T) => Parameters<RequestTrace["end"]>[0],
): Promise<T> {
  if (begun === undefined) return run();
  try {
    const result = await run();
    begun.end(details(result));
    return result;
  } catch (error) {
    begun.fail(error);
    throw error;
  }
}

/** Traces a stream. @param details - called at the end, for the details of the whole answer */
export function watchWith(
  begun: RequestTrace,
  details: () => Parameters<RequestTrace["end"]>[0],
): StreamWatcher<unknown> {
  return {
    items: (items) => {
      if (items.length > 0) begun.firstToken();
    },
    ended: (failure) => (failure === undefined ? begun.end(details()) : begun.fail(failure.error)),
  };
}

/** The details at the end of a generation. */
export function detailsOf({ usage, choices }: GenerateResult): Parameters<RequestTrace["end"]>[0] {
  return { usage, finishReasons: choices.map(({ finishReason }) => finishReason) };
}

/** Traces a load. */
export async function tracedLoad<T>(model: string, run: () => Promise<T>): Promise<T> {
  if (!load.start.hasSubscribers && !load.end.hasSubscribers && !load.error.hasSubscribers) return run();
  const message: LoadDiagnostics = { model };
  const began = performance.now();
  load.start.publish(message);
  try {
    const result = await run();
    message.duration = performance.now() - began;
    load.end.publish(message);
    return result;
  } catch (error) {
    load.error.publish(Object.assign(message, { duration: performance.now() - began, error }));
    throw error;
  }
}

/** Makes the message of a request from its checked options. */
export function requestMessage(
  model: string,
  operation: RequestDiagnostics["operation"],
  { lora, fields }: CheckedOptions,
  streaming: boolean,
): RequestDiagnostics {
  return { model, operation, adapter: lora?.name, streaming, parameters: { ...fields } };
}

/** Traces each call of a `fetch`, until the headers of its response. */
export function tracedFetch(model: string, fetch: typeof globalThis.fetch): typeof globalThis.fetch {
  return async (input, init) => {
    const begun = trace(() => {
      const asked = typeof input === "object" && "url" in input ? input : undefined;
      const method = init?.method ?? asked?.method ?? "GET";
      const parameters = { method, path: new URL(asked?.url ?? String(input), "http://localhost/v1/").pathname };
      return { model, operation: "fetch", adapter: undefined, streaming: false, parameters };
    });
    return traced(
      begun,
      () => fetch(input, init),
      ({ status }) => ({ status }),
    );
  };
}
