/** One value of a metric. */
export interface MetricSample {
  /** The family's name; for a histogram with the suffix `_bucket`, `_sum` or `_count`. */
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A metric with its values. */
export interface MetricFamily {
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge" | "histogram" | "summary" | "untyped";
  readonly samples: readonly MetricSample[];
}

interface Growing extends MetricFamily {
  help: string;
  type: MetricFamily["type"];
  readonly samples: MetricSample[];
}

const types: ReadonlySet<string> = new Set(["counter", "gauge", "histogram", "summary", "untyped"]);
const ending = /_(bucket|sum|count)$/;

/**
 * Reads metrics in Prometheus' text format (https://prometheus.io/docs/instrumenting/exposition_formats/), such as
 * {@link TritonServer.metrics} returns. Lines that are not metrics are ignored.
 */
export function parseMetrics(text: string): MetricFamily[] {
  const families = new Map<string, Growing>();
  const family = (name: string): Growing => {
    const found = families.get(name) ?? { name, help: "", type: "untyped", samples: [] };
    families.set(name, found);
    return found;
  };
  for (const line of text.split("\n")) {
    const [, keyword, about, rest = ""] = /^# (HELP|TYPE) (\S+) ?(.*)$/.exec(line) ?? [];
    if (keyword !== undefined && about !== undefined) {
      if (keyword === "HELP") family(about).help = rest;
      else if (types.has(rest)) family(about).type = rest as MetricFamily["type"];
      continue;
    }
    const sample = readSample(line);
    if (sample === undefined) continue;
    const whole = sample.name.replace(ending, "");
    family(families.has(whole) ? whole : sample.name).samples.push(sample);
  }
  return [...families.values()];
}

function readSample(line: string): MetricSample | undefined {
  const [, name, list, value] =
    /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? +([+-]?(?:\d[\d.eE+-]*|Inf|NaN))(?: +-?\d+)?$/i.exec(line) ?? [];
  if (name === undefined || value === undefined) return undefined;
  const labels: Record<string, string> = {};
  for (const [, label, content = ""] of (list ?? "").matchAll(/([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g)) {
    if (label !== undefined)
      labels[label] = content.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
  }
  const infinite = /^([+-]?)Inf$/i.exec(value);
  const number = infinite ? (infinite[1] === "-" ? -1 : 1) * Number.POSITIVE_INFINITY : Number(value);
  return { name, labels, value: number };
}
