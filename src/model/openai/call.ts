import { DeadlineExceededError, InvalidArgumentError, RequestCancelledError, TritonodeError } from "../../errors";
import type { RequestTrace } from "../diagnostics";
import { AdapterNotFoundError } from "../failure";
import { type CheckedOptions, fieldsToJson } from "../options";
import { plainRequestReason, requestHint } from "../request-reasons";
import { HttpStatusError } from "./errors";

/** How chat, embed and tokenize reach vLLM's application. */
export interface OpenAiRoutes {
  readonly fetch: typeof globalThis.fetch;
  /** Begins the trace of a request, if anybody listens. */
  trace(operation: "chat" | "embeddings", options: CheckedOptions, streaming: boolean): RequestTrace | undefined;
  /** Names of the adapters that are served now. */
  adapterNames(): Promise<string[]>;
  /** The name to ask for, of an adapter that is given with a path or a scale: it is loaded if it has to be. */
  resolveAdapter(choice: { name: string; path?: string; scale?: number }): Promise<string>;
}

/** A request that was answered. Reading its body rejects with the same errors as the request. */
export interface Answer {
  readonly status: number;
  json<T>(): Promise<T>;
  body(): AsyncGenerator<Uint8Array, void, undefined>;
}

/**
 * Posts a JSON request and resolves with its response if the status is a success.
 *
 * @param cancel - ends the request as its caller's signal would
 */
export async function post(
  routes: OpenAiRoutes,
  path: string,
  body: object,
  options: CheckedOptions,
  cancel?: AbortSignal,
): Promise<Answer> {
  const { lora, signal, deadline } = options;
  const limit = deadline === undefined ? undefined : AbortSignal.timeout(deadline);
  const named = lora?.path === undefined && lora?.scale === undefined;
  const model = lora === undefined || named ? lora?.name : await routes.resolveAdapter(lora);
  const signals = [signal, limit, cancel].filter((each) => each !== undefined);
  const fail = (error: unknown): Promise<never> => Promise.reject(fromFetchFailure(error, options, limit));
  const response = await routes
    .fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: fieldsToJson({ ...(model === undefined ? {} : { model }), ...body }, "field"),
      ...(signals.length === 0 ? {} : { signal: AbortSignal.any(signals) }),
    })
    .catch(fail);
  if (!response.ok) throw await fromStatus(routes, response, model);
  return {
    status: response.status,
    json: <T>() => response.json().catch(fail) as Promise<T>,
    async *body() {
      try {
        for await (const bytes of response.body ?? []) yield bytes as Uint8Array;
      } catch (error) {
        await fail(error);
      }
    },
  };
}

/** Converts an error of `fetch` to the error of the request. */
function fromFetchFailure(
  error: unknown,
  { signal, deadline }: CheckedOptions,
  limit: AbortSignal | undefined,
): unknown {
  if (signal?.aborted && error === signal.reason) {
    return new RequestCancelledError("the request was aborted by its signal", { cause: error });
  }
  if (deadline !== undefined && limit?.aborted && error === limit.reason) {
    return new DeadlineExceededError(deadline, { cause: error });
  }
  if (error instanceof TypeError && error.cause instanceof TritonodeError) return error.cause;
  return error;
}

async function fromStatus(routes: OpenAiRoutes, response: Response, lora: string | undefined): Promise<Error> {
  const text = await response.text();
  let body: unknown = text;
  try {
    body = JSON.parse(text);
  } catch {
    // Not every error is vLLM's own.
  }
  // vLLM's own errors, and FastAPI's for a route that is not there.
  const { error: named, detail } = (body ?? {}) as { error?: { message?: unknown }; detail?: unknown };
  const message = named?.message ?? detail;
  const error = new HttpStatusError(
    response.status,
    typeof message === "string" ? message : text || response.statusText,
    body,
  );
  if (response.status === 404 && lora !== undefined) {
    const names = await routes.adapterNames();
    if (!names.includes(lora)) return new AdapterNotFoundError(lora, names, { cause: error });
  }
  if (response.status === 400 || response.status === 422) {
    return new InvalidArgumentError(plainRequestReason(error.message), {
      cause: error,
      hint: requestHint(error.message),
    });
  }
  return error;
}
