import { readFileSync } from "node:fs";
import { join } from "node:path";
import { defaultDirectory, namedDirectory } from "../../src/runtime/find/paths";

const directory = namedDirectory(undefined) ?? defaultDirectory("cpu");
const { vllmVersion } = JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8")) as { vllmVersion: string };

/** Whether the tests' vLLM is 0.`minor` or a later one: `npm run matrix:vllm` runs them on older ones too. */
export function isVllmSince(minor: number): boolean {
  return Number(/^0\.(\d+)/.exec(vllmVersion)?.[1]) >= minor;
}

/** Engine arguments for a model that calls tools. vLLM has a strictness of its own for them since 0.31. */
export const toolEngine = {
  enable_auto_tool_choice: true,
  tool_call_parser: "hermes",
  ...(isVllmSince(31) ? { tool_strict_level: "parameter" } : {}),
};
