import type { AdapterDescription } from "../model/describe";
import { formatBytes } from "../runtime/install/progress";
import type { Context } from "./context";
import { styler } from "./terminal";

/** Describes an adapter for people, with the problems that keep it from being served. */
export function adapterLines(
  adapter: AdapterDescription & { hint?: string },
  context: Context,
  name = adapter.path,
): string {
  const style = styler(context.stdout, context.environment);
  const mark = adapter.loadable ? style("green", "ok  ") : style("red", "FAIL");
  const { rank, alpha, size_bytes: bytes, dtype, target_modules: modules, base_model: base } = adapter;
  const parts = [
    ...(rank === undefined ? [] : [`rank ${rank}, alpha ${alpha}`]),
    ...(bytes === undefined ? [] : [`${formatBytes(bytes)} ${dtype}`]),
    ...(modules === undefined ? [] : [modules.join(" ")]),
    ...(typeof base === "string" ? [`made for ${base}`] : []),
  ];
  const further = [...(name === adapter.path ? [] : [adapter.path]), ...(parts.length === 0 ? [] : [parts.join("; ")])];
  return [
    `${mark}  ${name}`,
    ...further.map((line) => `      ${style("dim", line)}`),
    ...adapter.problems.map((problem) => `      ${style("red", "problem")}: ${problem}`),
    ...(adapter.hint === undefined ? [] : [`      ${style("cyan", "hint")}: ${adapter.hint}`]),
    "",
  ].join("\n");
}
