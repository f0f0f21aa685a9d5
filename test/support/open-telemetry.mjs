// The real SDK of OpenTelemetry with exporters that keep what they get. Plain JavaScript: its types are not needed.
import { context, trace } from "@opentelemetry/api";
import { AsyncLocalStorageContextManager } from "@opentelemetry/context-async-hooks";
import {
  AggregationTemporality,
  InMemoryMetricExporter,
  MeterProvider,
  PeriodicExportingMetricReader,
} from "@opentelemetry/sdk-metrics";
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base";

export function startSdk() {
  const spans = new InMemorySpanExporter();
  const tracerProvider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] });
  const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
  const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 });
  const meterProvider = new MeterProvider({ readers: [reader] });
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable());
  return {
    tracerProvider,
    meterProvider,
    spans: () => spans.getFinishedSpans(),
    /** The data points of each metric by its name. */
    async metrics() {
      exporter.reset();
      await meterProvider.forceFlush();
      const scopes = exporter.getMetrics().flatMap(({ scopeMetrics }) => scopeMetrics);
      return Object.fromEntries(scopes.flatMap(({ metrics }) => metrics.map((m) => [m.descriptor.name, m.dataPoints])));
    },
    /** Runs a function within a span. */
    within: (name, run) => {
      const span = tracerProvider.getTracer("test").startSpan(name);
      return context.with(trace.setSpan(context.active(), span), async () => {
        try {
          return await run();
        } finally {
          span.end();
        }
      });
    },
    async stop() {
      context.disable();
      await tracerProvider.shutdown();
      await meterProvider.shutdown();
    },
  };
}
