import { setTimeout as delay } from "node:timers/promises";
import { internetSockets } from "../processes.mjs";
import { loadModel, prompt, since } from "./model.mjs";

const long = { temperature: 0, max_tokens: 400, ignore_eos: true };

/** Streams in pieces, leaves, aborts, runs 256 at once, and looks for sockets meanwhile. */
export async function streams(config) {
  const { small } = config;
  const model = await loadModel(config);
  const sockets = new Set();
  const look = setInterval(() => {
    for (const socket of internetSockets()) sockets.add(socket);
  }, 250);
  const figures = {};
  try {
    let pieces = 0;
    for await (const _piece of model.stream(prompt, { ...long, max_tokens: 32 })) pieces++;
    figures.piecesOf32Tokens = pieces;
    check(pieces > 16, `32 tokens came in ${pieces} pieces`);

    figures.idleAfterLeavingMs = await idleAfter(model, async () => {
      for await (const _piece of model.stream(prompt, long)) break;
    });
    figures.idleAfterAbortMs = await idleAfter(model, async () => {
      const controller = new AbortController();
      setTimeout(() => controller.abort(), 100);
      await model.generate(prompt, { ...long, lora: "a", signal: controller.signal }).catch((error) => {
        if (error.code !== "ERR_REQUEST_CANCELLED") throw error;
      });
    });

    const [count, tokens] = small ? [64, 16] : [256, 64];
    const began = performance.now();
    const names = [undefined, "a", "b"];
    const answers = await Promise.all(
      Array.from({ length: count }, (_, at) =>
        model.stream(`${prompt} ${at}`, { ...long, max_tokens: tokens, lora: names[at % 3] }).final(),
      ),
    );
    const total = answers.reduce((sum, { usage }) => sum + usage.completionTokens, 0);
    check(total === count * tokens, `${count} streams of ${tokens} tokens gave ${total}`);
    Object.assign(figures, { streams: count, tokens: total, tokensPerSecond: Math.round(total / since(began)) });
    figures.sockets = [...sockets];
    check(sockets.size === 0, `internet sockets: ${[...sockets].join("; ")}`);
    return figures;
  } catch (error) {
    throw Object.assign(error, { figures });
  } finally {
    clearInterval(look);
    await model.dispose();
  }
}

/** Milliseconds until vLLM runs nothing any more; fails after 2 seconds. */
async function idleAfter(model, action) {
  await action();
  const began = performance.now();
  for (;;) {
    const { requests } = await model.info();
    const milliseconds = Math.round(performance.now() - began);
    if (requests.running + requests.waiting === 0) return milliseconds;
    check(milliseconds < 2_000, "a cancelled request still runs in vLLM after 2 s");
    await delay(10);
  }
}

function check(holds, message) {
  if (!holds) throw new Error(message);
}
