// llama.cpp with the CPU library that node-llama-cpp comes with: nothing is compiled or downloaded.
import { availableParallelism } from "node:os";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

export function startLlama() {
  return getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    logLevel: LlamaLogLevel.warn,
    // By default at least 4, which is far slower than 2 on 2 cores: they spin.
    maxThreads: availableParallelism(),
  });
}
