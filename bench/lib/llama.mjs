// llama.cpp with the CPU library that node-llama-cpp comes with: nothing is compiled or downloaded.
import { availableParallelism } from "node:os";

export async function startLlama() {
  // Here and not above: scripts that import this file install the package only then.
  const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
  return getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    logLevel: LlamaLogLevel.warn,
    // By default at least 4, which is far slower than 2 on 2 cores: they spin.
    maxThreads: availableParallelism(),
  });
}
