import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type * as OpenTelemetry from "@opentelemetry/api";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError } from "../errors";
import type { LoadDiagnostics, RequestDiagnostics } from "../model";
import { errorType, requestAttributes, responseAttributes, spanName } from "./attributes";

/** Options of {@link instrument}. */
export interface InstrumentOptions {
  /** Default: the application's global one. */
  readonly tracerProvider?: OpenTelemetry.TracerProvider | undefined;
  /** Default: the application's global one. */
  readonly meterProvider?: OpenTelemetry.MeterProvider | undefined;
}

/** Seconds. The boundaries that OpenTelemetry's conventions for generative AI advise. */
const durations = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/** Seconds. */
const firstTokens = [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10];
const tokens = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576];

/**
 * Makes a span of every request and every load of this process's models, and records their metrics, under the names of
 * OpenTelemetry's conventions for generative AI. A span's parent is the span that is active when the request is made.
 * Prompts and answers are not recorded.
 *
 * It takes the application's own package `@opentelemetry/api`. Without a provider that package does nothing, and so does this.
 *
 * ```ts
 * import { instrument } from "tritonode/opentelemetry";
 *
 * instrument();
 * ```
 *
 * @returns a function that ends it; spans that are open are ended
 * @throws `InvalidArgumentError` for a bad option, and where `@opentelemetry/api` is not installed
 */
export function instrument(options: InstrumentOptions = {}): () => void {
  checkNames("instrument", options, ["tracerProvider", "meterProvider"]);
  const { context, metrics, SpanKind, SpanStatusCode, trace } = loadApi();
  const tracer = (options.tracerProvider ?? trace).getTracer("tritonode");
  const meter = (options.meterProvider ?? metrics).getMeter("tritonode");
  const histogram = (name: string, description: string, unit: string, boundaries: number[]) =>
    meter.createHistogram(name, { description, unit, advice: { explicitBucketBoundaries: boundaries } });
  const duration = histogram("gen_ai.client.operation.duration", "Time of a request, in seconds", "s", durations);
  const usage = histogram("gen_ai.client.token.usage", "Tokens of a request", "{token}", tokens);
  const toFirst = histogram(
    "gen_ai.server.time_to_first_token",
    "Time to the first token, in seconds",
    "s",
    firstTokens,
  );
  const active = meter.createUpDownCounter("tritonode.requests.active", {
    description: "Requests that run",
    unit: "{request}",
  });
  const spans = new Map<object, OpenTelemetry.Span>();

  const end = (message: object, attributes: OpenTelemetry.Attributes, error?: unknown) => {
    const span = spans.get(message);
    if (span === undefined) return;
    spans.delete(message);
    span.setAttributes(attributes);
    if (error !== undefined) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.message : String(error) });
      span.setAttribute("error.type", errorType(error));
      if (error instanceof Error) span.recordException(error);
    }
    span.end();
  };
  const begin = (message: object, name: string, attributes: OpenTelemetry.Attributes) =>
    spans.set(message, tracer.startSpan(name, { kind: SpanKind.INTERNAL, attributes }, context.active()));
  const record = (message: RequestDiagnostics, error?: unknown) => {
    const attributes = requestAttributes(message, "metric");
    active.add(-1, attributes);
    const failed = error === undefined ? attributes : { ...attributes, "error.type": errorType(error) };
    if (message.duration !== undefined) duration.record(message.duration / 1000, failed);
    if (message.usage === undefined) return;
    usage.record(message.usage.promptTokens, { ...attributes, "gen_ai.token.type": "input" });
    usage.record(message.usage.completionTokens, { ...attributes, "gen_ai.token.type": "output" });
  };

  const listeners: Record<string, (message: unknown) => void> = {
    "tritonode:request:start": (given) => {
      const message = given as RequestDiagnostics;
      begin(message, spanName(message), requestAttributes(message, "span"));
      active.add(1, requestAttributes(message, "metric"));
    },
    "tritonode:request:first-token": (given) => {
      const message = given as RequestDiagnostics;
      if (!spans.has(message)) return;
      spans.get(message)?.addEvent("first token");
      toFirst.record((message.timeToFirstToken ?? 0) / 1000, requestAttributes(message, "metric"));
    },
    "tritonode:request:end": (given) => {
      const message = given as RequestDiagnostics;
      if (spans.has(message)) record(message);
      end(message, responseAttributes(message));
    },
    "tritonode:request:error": (given) => {
      const message = given as RequestDiagnostics;
      if (spans.has(message)) record(message, message.error);
      end(message, {}, message.error);
    },
    "tritonode:load:start": (given) => {
      const { model } = given as LoadDiagnostics;
      begin(given as object, `load ${model}`, { "gen_ai.request.model": model });
    },
    "tritonode:load:end": (given) => end(given as object, {}),
    "tritonode:load:error": (given) => end(given as object, {}, (given as LoadDiagnostics).error),
  };
  for (const [name, listener] of Object.entries(listeners)) subscribe(name, listener);
  return () => {
    for (const [name, listener] of Object.entries(listeners)) unsubscribe(name, listener);
    for (const span of spans.values()) span.end();
    spans.clear();
  };
}

function loadApi(): typeof OpenTelemetry {
  try {
    return require("@opentelemetry/api");
  } catch (cause) {
    throw new InvalidArgumentError("the package @opentelemetry/api is not installed", {
      cause,
      hint: "npm install @opentelemetry/api, and an SDK of OpenTelemetry",
    });
  }
}
