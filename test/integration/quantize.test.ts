import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { main } from "../../src/cli/main";
import { temporaryFolder } from "../support/folders";
import { loadTiny } from "../support/models";
import { adapter, fixtures } from "../support/paths";
import { context } from "../unit/cli-context";

// The command on the tiny model: the folder that it writes is loaded, with an adapter of the original.

const folder = temporaryFolder();

test("a quantized folder is loaded with the original's adapters, and its perplexity is told", async () => {
  const out = join(folder, "tiny 8 bit");
  const surroundings = context({ environment: process.env });
  const code = await main(["quantize", fixtures.models.tiny, out, "--bits", "8"], surroundings);
  expect(surroundings.stderr.text).toContain("perplexity");
  expect(code).toBe(0);
  expect(surroundings.stdout.text).toContain("quantized: 14 layers to 8 bits in");
  const [, before, after] = /perplexity: ([\d.]+) before, ([\d.]+) after/.exec(surroundings.stdout.text) ?? [];
  expect(Math.abs(Number(after) / Number(before) - 1)).toBeLessThan(0.05);
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"));
  expect(config.quantization_config.format).toBe("pack-quantized");

  const model = await loadTiny({ model: out }, { lora_a: adapter("lora_a") });
  try {
    const options = { temperature: 0, max_tokens: 8, ignore_eos: true };
    const base = await model.generate("Hello, my name is", options);
    const adapted = await model.generate("Hello, my name is", { ...options, lora: "lora_a" });
    expect(adapted.text).not.toBe(base.text);
  } finally {
    await model.dispose();
  }
});

test.each([
  [["quantize"], "quantize needs SRC"],
  [["quantize", fixtures.models.tiny, join(folder, "x"), "--bits", "5"], '--bits "5" is not known'],
  [["quantize", folder, join(folder, "x"), "--no-perplexity"], "it has no config.json"],
  [["quantize", fixtures.models.tiny, folder, "--no-perplexity"], "exists already; name a new folder"],
])("%j is refused", async (words, message) => {
  const surroundings = context({ environment: process.env });
  expect(await main(words, surroundings)).not.toBe(0);
  expect(surroundings.stderr.text).toContain(message);
  expect(existsSync(join(folder, "x"))).toBe(false);
});
