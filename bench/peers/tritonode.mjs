// This package, as a caller uses it.
import { VllmModel } from "../../dist/index.mjs";

export async function start({ model, loras, engine, environment }) {
  const vllm = await VllmModel.load({
    engine: { model, ...engine },
    ...(loras === undefined ? {} : { loras }),
    ...(environment === undefined ? {} : { environment }),
  });
  return {
    async generate({ prompt, tokens, lora }, onDelta) {
      let whole = "";
      const options = { lora, max_tokens: tokens, min_tokens: tokens, temperature: 0, ignore_eos: true };
      for await (const { text } of vllm.stream(prompt, options)) {
        onDelta();
        whole += text;
      }
      return whole;
    },
    stop: () => vllm.dispose(),
  };
}
