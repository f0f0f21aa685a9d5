import { join } from "node:path";
import { median, runBatch } from "../../../bench/lib/measure.mjs";
import { start as startServer } from "../../../bench/peers/vllm-serve.mjs";
import { root } from "../../steps.mjs";
import { engineOf, open, since } from "./model.mjs";

/** Sixteen names on two folders: vLLM takes each for an adapter of its own. */
function sixteen({ loras: { a, b } }) {
  return Object.fromEntries(Array.from({ length: 16 }, (_, at) => [`lora${at}`, at % 2 === 0 ? a : b]));
}

/** What each engine is asked: how many streams, and the adapters that they go round. */
function workloads(small) {
  const [many, tokens, rounds] = small ? [4, 8, 1] : [32, 64, 3];
  const names = (count) => Array.from({ length: count }, (_, at) => `lora${at}`);
  return {
    rounds,
    tokens,
    list: [
      { name: "base, 1 stream", streams: 1, loras: [undefined] },
      { name: `base, ${many} streams`, streams: many, loras: [undefined] },
      { name: `one adapter, ${many} streams`, streams: many, loras: names(1) },
      { name: `base and 2 adapters, ${many} streams`, streams: many, loras: [undefined, ...names(2)] },
      { name: `16 adapters, ${many} streams`, streams: many, loras: names(16) },
    ],
  };
}

/** Runs every workload some times, after one that does not count. */
async function measure(config, start) {
  const began = performance.now();
  const peer = await start(engineOf(config, { max_loras: 16 }), sixteen(config));
  const loadSeconds = since(began);
  const figures = {};
  try {
    const { list, rounds, tokens } = workloads(config.small);
    for (const { name, streams, loras } of list) {
      const results = [];
      for (let round = 0; round <= rounds; round++) {
        const requests = Array.from({ length: streams }, (_, at) => ({
          prompt: `Round ${round}, question ${at}: what is the capital of France? Answer:`,
          tokens,
          lora: loras[at % loras.length],
        }));
        const result = await runBatch(peer.generate, requests);
        if (result.failed > 0) throw new Error(`${name}: ${result.error}`);
        if (round > 0) results.push(result);
      }
      const middle = (of) => Math.round(median(results.map(of)) * 10) / 10;
      figures[name] = {
        tokensPerSecond: middle(({ seconds }) => (streams * tokens) / seconds),
        firstTokenMs: middle(({ firstMs }) => firstMs.p50),
        gapP50Ms: middle(({ gapMs }) => gapMs.p50),
        gapP99Ms: middle(({ gapMs }) => gapMs.p99),
      };
    }
    return { loadSeconds, workloads: figures };
  } catch (error) {
    throw Object.assign(error, { figures: { loadSeconds, workloads: figures } });
  } finally {
    await peer.stop();
  }
}

/** @param backend the folder of the backend to serve with; undefined: this package's */
function served(config, backend, environment) {
  return measure(config, async (engine, loras) => {
    const { VllmModel } = open();
    const { directory: runtime, device } = config;
    const model = await VllmModel.load({ runtime, device, engine, loras, environment, backend });
    return {
      async generate({ prompt, tokens, lora }, onDelta) {
        const options = { lora, max_tokens: tokens, min_tokens: tokens, temperature: 0, ignore_eos: true };
        for await (const _piece of model.stream(prompt, options)) onDelta();
      },
      stop: () => model.dispose(),
    };
  });
}

/** This package as it is on a GPU; on a CPU the engine has to be told, because there it runs on the loop. */
export const engineThread = (config) => served(config, undefined, { TRITONODE_ENGINE_CLIENT: "thread" });

/** vLLM's own arrangement, its engine core in a process of its own, in a backend that is built as Triton's. */
export const engineProcess = (config) => served(config, join(root, "bench/peers/upstream"), {});

export function engineServer(config) {
  return measure(config, (engine, loras) => {
    const { model, max_lora_rank, max_loras, max_cpu_loras, ...rest } = engine;
    const { python } = config;
    const settings = { ...rest, max_lora_rank, max_loras, max_cpu_loras };
    return startServer({ python, model, loras, engine: settings, log: "/dev/null" });
  });
}
