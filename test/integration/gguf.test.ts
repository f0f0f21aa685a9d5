import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { VllmModel } from "../../src";
import { paths, root } from "../support/paths";
import { reference } from "../support/reference";

// SmolLM2's GGUF file as it is, with two adapters, from Node: equal to transformers and PEFT on the dequantised weights.

const backbone = join(paths.workspace, "weights/backbone/smollm2-135m-instruct");
const loras = {
  alpaca: join(paths.workspace, "weights/loras/alpaca"),
  bactrian: join(paths.workspace, "weights/loras/bactrian"),
};
const prompts = ["The capital of France is", "In 2024, a long road"];
const messages = [{ role: "user", content: "Name a colour." }];
const file = execFileSync(paths.python, ["-c", "import make_backbone; print(make_backbone.find_gguf())"], {
  env: { ...process.env, PYTHONPATH: join(root, "examples/tutorial") },
})
  .toString()
  .trim();

let model: VllmModel;
beforeAll(async () => {
  model = await VllmModel.load({
    engine: { model: file, dtype: "float32", max_model_len: 512, kv_cache_memory_bytes: 128 << 20 },
    loras,
  });
});
afterAll(() => model.dispose());

test("texts of the base and of each adapter in one batch equal transformers and PEFT", async () => {
  const rows = prompts.flatMap((prompt) => [undefined, "alpaca", "bactrian"].map((lora) => ({ prompt, lora })));
  const wanted = reference(
    file,
    rows.map(({ prompt, lora }) => ({
      prompt,
      adapter: lora === undefined ? null : loras[lora as keyof typeof loras],
      max_tokens: 16,
    })),
    backbone,
  );
  const texts = await Promise.all(
    rows.map(({ prompt, lora }) =>
      model.generate(prompt, { lora, temperature: 0, max_tokens: 16 }).then(({ text }) => text),
    ),
  );
  expect(Math.min(...wanted.map(({ margin }) => margin))).toBeGreaterThan(1e-4);
  expect(texts).toEqual(wanted.map(({ text }) => text));
});

test("the chat template, the end of an answer and the model's name come from the file", async () => {
  const [wanted] = reference(file, [{ messages, max_tokens: 48 }], backbone);
  const response = await model.fetch("http://model/v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: file, messages, temperature: 0, max_tokens: 48 }),
  });
  const answer = (await response.json()) as { choices: { message: { content: string }; finish_reason: string }[] };
  expect(answer.choices[0]?.message.content).toBe(wanted?.text);
  expect(answer.choices[0]?.finish_reason).toBe(wanted?.finish_reason);
});
