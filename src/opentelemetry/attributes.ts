import type { Attributes } from "@opentelemetry/api";
import { TritonodeError } from "../errors";
import type { RequestDiagnostics } from "../model";

/** Names of OpenTelemetry's conventions (gen_ai) for vLLM's fields of a request. */
const fields: Readonly<Record<string, string>> = {
  max_tokens: "gen_ai.request.max_tokens",
  max_completion_tokens: "gen_ai.request.max_tokens",
  temperature: "gen_ai.request.temperature",
  top_p: "gen_ai.request.top_p",
  top_k: "gen_ai.request.top_k",
  presence_penalty: "gen_ai.request.presence_penalty",
  frequency_penalty: "gen_ai.request.frequency_penalty",
  seed: "gen_ai.request.seed",
  n: "gen_ai.request.choice.count",
};

const operations: Readonly<Record<RequestDiagnostics["operation"], string>> = {
  generate: "text_completion",
  chat: "chat",
  embeddings: "embeddings",
  fetch: "fetch",
};

export function spanName({ operation, adapter, model, parameters }: RequestDiagnostics): string {
  if (operation === "fetch") return `${String(parameters["method"])} ${String(parameters["path"])}`;
  return `${operations[operation]} ${adapter ?? model}`;
}

/** A span has all that is known at the start; a metric only what has few values. */
export function requestAttributes(message: RequestDiagnostics, kind: "span" | "metric"): Attributes {
  const { operation, adapter, model, streaming, parameters } = message;
  const attributes: Attributes = {
    "gen_ai.operation.name": operations[operation],
    "gen_ai.provider.name": "tritonode",
    "gen_ai.request.model": adapter ?? model,
  };
  if (operation === "fetch") {
    attributes["http.request.method"] = String(parameters["method"]);
    attributes["url.path"] = String(parameters["path"]);
  }
  if (kind === "metric") return attributes;
  attributes["tritonode.model"] = model;
  attributes["tritonode.streaming"] = streaming;
  if (adapter !== undefined) attributes["tritonode.adapter"] = adapter;
  for (const [name, attribute] of Object.entries(fields)) {
    const value = parameters[name];
    if (typeof value === "number") attributes[attribute] = value;
  }
  return attributes;
}

export function responseAttributes({ usage, finishReasons, status, timeToFirstToken }: RequestDiagnostics): Attributes {
  return {
    ...(usage === undefined
      ? {}
      : {
          "gen_ai.usage.input_tokens": usage.promptTokens,
          "gen_ai.usage.output_tokens": usage.completionTokens,
        }),
    ...(finishReasons === undefined ? {} : { "gen_ai.response.finish_reasons": [...finishReasons] }),
    ...(status === undefined ? {} : { "http.response.status_code": status }),
    ...(timeToFirstToken === undefined ? {} : { "tritonode.time_to_first_token": timeToFirstToken / 1000 }),
  };
}

/** The stable code of this package's errors, the class of others. */
export function errorType(error: unknown): string {
  if (error instanceof TritonodeError) return error.code;
  return error instanceof Error ? error.name : "_OTHER";
}
