import { loadModel, prompt, since } from "./model.mjs";

/** From the call of `load` to the model, and an answer of base and adapters. */
export async function load(config, eager) {
  const began = performance.now();
  const model = await loadModel(config, { enforce_eager: eager });
  try {
    const loadSeconds = since(began);
    const asked = performance.now();
    const texts = {};
    for (const lora of [undefined, "a", "b"]) {
      const { text } = await model.generate(prompt, { lora, temperature: 0, max_tokens: 8 });
      texts[lora ?? "base"] = text;
    }
    const { kvCache } = await model.info();
    return { loadSeconds, threeAnswersSeconds: since(asked), kvCacheTokens: kvCache.tokens, texts };
  } finally {
    await model.dispose();
  }
}
