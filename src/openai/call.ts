import { DeadlineExceededError, InvalidArgumentError, RequestCancelledError, TritonodeError } from "../errors";
import { describe } from "../vllm/describe";
import { AdapterNotFoundError } from "../vllm/failure";
import { HttpStatusError } from "./errors";

/** What every convenience takes beside the fields of vLLM's own request. */
export interface CallOptions {
  /** The adapter to answer with; left out: the base model. */
  lora?: string | undefined;
  /** Aborting it cancels the request in vLLM. */
  signal?: AbortSignal | undefined;
  /** Milliseconds after which the request is cancelled and rejects with {@link DeadlineExceededError}. */
  deadline?: number | undefined;
}

/** What the conveniences need of the model. */
export interface Door {
  readonly fetch: typeof globalThis.fetch;
  /** Names of the adapters that are served now. */
  adapterNames(): Promise<string[]>;
}

/** Posts a JSON request and gives its response once it is known to be a good one. */
export async function post(door: Door, path: string, body: object, options: CallOptions): Promise<Response> {
  const { lora, signal, deadline } = options;
  if (deadline !== undefined && !(typeof deadline === "number" && deadline > 0)) {
    throw new InvalidArgumentError(`deadline must be a number of milliseconds above 0, got ${describe(deadline)}`);
  }
  if (lora !== undefined && (typeof lora !== "string" || lora === "")) {
    throw new InvalidArgumentError(`lora must be an adapter's name, got ${describe(lora)}`);
  }
  const limit = deadline === undefined ? undefined : AbortSignal.timeout(deadline);
  const signals = [signal, limit].filter((each) => each !== undefined);
  const response = await door
    .fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...(lora === undefined ? {} : { model: lora }), ...body }),
      ...(signals.length === 0 ? {} : { signal: AbortSignal.any(signals) }),
    })
    .catch((error: unknown) => {
      throw fromFetchFailure(error, options);
    });
  if (!response.ok) throw await fromStatus(door, response, lora);
  return response;
}

/** A failure of `fetch` as the error of the request. */
export function fromFetchFailure(error: unknown, { signal, deadline }: CallOptions): unknown {
  if (signal?.aborted && error === signal.reason) {
    return new RequestCancelledError("the request was aborted by its signal", { cause: error });
  }
  if (deadline !== undefined && error instanceof DOMException && error.name === "TimeoutError") {
    return new DeadlineExceededError(deadline, { cause: error });
  }
  if (error instanceof TypeError && error.cause instanceof TritonodeError) return error.cause;
  return error;
}

async function fromStatus(door: Door, response: Response, lora: string | undefined): Promise<Error> {
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
    const names = await door.adapterNames();
    if (!names.includes(lora)) return new AdapterNotFoundError(lora, names, { cause: error });
  }
  if (response.status === 400 || response.status === 422)
    return new InvalidArgumentError(error.message, { cause: error });
  return error;
}
