import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** The order of the pages; their titles are their own first headings. */
const pages = {
  "Start here": ["guides/getting-started", "guides/your-model", "guides/adapters"],
  "Do something": [
    "guides/chat-and-tools",
    "guides/structured-output",
    "guides/embeddings",
    "guides/many-prompts",
    "guides/ai-sdk",
    "guides/observability",
    "guides/troubleshooting",
  ],
  "Put it somewhere": [
    "guides/nextjs",
    "guides/electron",
    "guides/bundlers",
    "guides/workers",
    "guides/docker",
    "guides/offline",
    "guides/gpu",
    "guides/container",
    "guides/scale",
  ],
  "Move over from": [
    "guides/from-tritonserver",
    "guides/from-vllm-serve",
    "guides/from-node-llama-cpp",
    "guides/from-ollama",
    "guides/stock-tritonserver",
  ],
  Reference: [
    "reference/api/index",
    "reference/command-line",
    "reference/command-line",
    "errors",
    "reference/tools",
    "reference/openai",
    "reference/formats",
    "reference/runtime",
    "reference/versions",
    "reference/reliability",
    "reference/security",
    "reference/arm64",
  ],
  Benchmarks: ["benchmarks/peers", "benchmarks/lora", "benchmarks/kernels", "benchmarks/tables", "benchmarks/gpu"],
  "How it works": ["contributing/architecture", "contributing/packaging", "contributing/ten-tasks"],
};

/** @param {string} docs the folder of the pages */
export function sidebar(docs) {
  return Object.entries(pages).map(([text, names]) => ({
    text,
    items: names.map((name) => ({ text: titleOf(join(docs, `${name}.md`)), link: `/${name.replace(/index$/, "")}` })),
  }));
}

function titleOf(file) {
  if (!existsSync(file)) throw new Error(`the sidebar names ${file}, which is not there`);
  const title = /^# (.+)$/m.exec(readFileSync(file, "utf8"))?.[1];
  if (title === undefined) throw new Error(`${file} has no heading`);
  return title.replaceAll("`", "");
}
