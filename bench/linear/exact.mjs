// Whether a request's neighbours change its text or a bit of its log-probabilities.
import { VllmModel } from "../../dist/index.mjs";
import { batch } from "../lib/rounds.mjs";

const REQUESTS = 24;

/**
 * Asks 24 requests one after the other, then all at once: the base and the adapters in turn.
 *
 * @returns how many texts, and how many lists of log-probabilities, are the same
 */
export async function equalInBatch(file, engine, loras) {
  const settings = { ...engine, max_num_seqs: REQUESTS, enable_prefix_caching: false };
  const model = await VllmModel.load({ engine: { model: file, ...settings }, loras });
  try {
    const requests = batch(REQUESTS, 48, 1, [undefined, ...Object.keys(loras)]);
    const ask = async ({ prompt, tokens, lora }) => {
      const options = { lora, max_tokens: tokens, temperature: 0, ignore_eos: true, logprobs: 5 };
      const { text, logprobs } = await model.generate(prompt, options);
      return { text, logprobs: JSON.stringify(logprobs) };
    };
    const alone = [];
    for (const request of requests) alone.push(await ask(request));
    const together = await Promise.all(requests.map(ask));
    const same = (key) => together.filter((each, at) => each[key] === alone[at][key]).length;
    return { requests: REQUESTS, texts: same("text"), logprobs: same("logprobs") };
  } finally {
    await model.dispose();
  }
}
