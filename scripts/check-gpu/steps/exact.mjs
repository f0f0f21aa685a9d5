import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { root } from "../../steps.mjs";
import { loadModel } from "./model.mjs";

const prompts = [
  "Hello, my name is",
  "The president of the United States is",
  "A long road",
  "The capital of France is",
];
/**
 * A logit that is nearer to the second best than this may fall either way by rounding, in that type. On a GPU the kernels
 * of attention and adapters multiply float32 as TF32, with three bits more than bfloat16.
 */
const close = { cpu: { float32: 1e-3, bfloat16: 0.25 }, cuda: { float32: 0.05, bfloat16: 0.25 } };

/**
 * Base and adapters in one batch, token by token against transformers and PEFT, which compute in float32 on the CPU. In
 * bfloat16 a text may part from the reference where its two best tokens are close; in float32 it may not.
 */
export async function exact(config, dtype) {
  const cases = prompts.flatMap((prompt) => [undefined, "a", "b"].map((lora) => ({ prompt, lora })));
  const requests = cases.map(({ prompt, lora }) => ({
    prompt,
    adapter: lora === undefined ? null : config.loras[lora],
    max_tokens: 24,
  }));
  const output = execFileSync(config.python, [join(root, "test/fixtures/reference.py")], {
    input: JSON.stringify({ model: config.model, dtype: "float32", requests }),
    maxBuffer: 64 << 20,
    stdio: ["pipe", "pipe", "inherit"],
    // The reference is the CPU's: a GPU's float32 products may be TF32.
    env: { ...process.env, HF_HUB_OFFLINE: "1", CUDA_VISIBLE_DEVICES: "" },
  }).toString();
  const { results } = JSON.parse(output);

  const model = await loadModel(config, { dtype });
  const counts = { texts: cases.length, equalTexts: 0, tokens: 0, equalTokens: 0 };
  const differences = [];
  try {
    const answers = await Promise.all(
      cases.map(({ prompt, lora }) => model.generate(prompt, { lora, temperature: 0, max_tokens: 24, logprobs: 0 })),
    );
    for (const [at, { logprobs }] of answers.entries()) {
      const { prompt, lora } = cases[at];
      const { token_ids: wanted, margin } = results[at];
      const got = logprobs.map((position) => position[0].tokenId);
      const parted = wanted.findIndex((token, position) => token !== got[position]);
      counts.tokens += wanted.length;
      counts.equalTokens += parted < 0 ? wanted.length : parted;
      if (parted < 0) counts.equalTexts++;
      else differences.push({ prompt, lora: lora ?? "base", at: parted, margin });
    }
  } finally {
    await model.dispose();
  }
  const wrong = differences.filter(({ margin }) => margin > close[config.device][dtype]);
  if (wrong.length > 0) {
    const { prompt, lora, at } = wrong[0];
    throw Object.assign(
      new Error(`${wrong.length} texts differ; ${lora} on ${JSON.stringify(prompt)} at token ${at}`),
      {
        figures: { ...counts, differences },
      },
    );
  }
  return { ...counts, differences };
}
