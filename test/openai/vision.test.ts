import { execFile } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { crc32, deflateSync } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { InvalidArgumentError, VllmModel } from "../../src";
import { ask as askAs } from "../../src/cli/ask";
import { conversation } from "../../src/cli/commands/run";
import { checkVision, readImages } from "../../src/cli/images";
import { temporaryFolder } from "../support/folders";
import { tinyEngine } from "../support/models";
import { fixtures, paths, root } from "../support/paths";
import { unless } from "../support/skip";
import { isVllmSince } from "../support/versions";

// A vision model with random eyes: another image gives another answer, the same image the same one.
const folder = join(root, ".cache/vision-model");
const images = temporaryFolder();
let model: VllmModel;
beforeAll(async () => {
  if (!existsSync(folder)) {
    const script = join(__dirname, "make_vision_model.py");
    await promisify(execFile)(paths.python, [script, fixtures.models.tiny, folder], { timeout: 120_000 });
  }
  model = await VllmModel.load({
    engine: { ...tinyEngine, model: folder, max_num_batched_tokens: 512, limit_mm_per_prompt: { image: 2 } },
  });
});
afterAll(() => model?.dispose());

/** A PNG of one colour (https://www.w3.org/TR/png-3/). */
function png(red: number, green: number, blue: number, side = 56): Buffer {
  const chunk = (type: string, data: Buffer) => {
    const named = Buffer.concat([Buffer.from(type), data]);
    const framed = Buffer.alloc(named.length + 8);
    framed.writeUInt32BE(data.length);
    named.copy(framed, 4);
    framed.writeUInt32BE(crc32(named), named.length + 4);
    return framed;
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([8, 2], 8);
  const row = Buffer.concat([Buffer.from([0]), Buffer.alloc(side * 3, Buffer.from([red, green, blue]))]);
  const pixels = deflateSync(Buffer.concat(Array.from({ length: side }, () => row)));
  const signature = Buffer.from("89504e470d0a1a0a", "hex");
  return Buffer.concat([signature, chunk("IHDR", header), chunk("IDAT", pixels), chunk("IEND", Buffer.alloc(0))]);
}

/** `num_patches` of vllm/model_executor/models/idefics3.py: no image is left, and the encoder fails. */
const seen = unless(!isVllmSince(31), "vLLM before 0.31 counts no patches of an image that Idefics3 does not split");

const [red, blue] = [png(255, 0, 0), png(0, 0, 255)];
const greedy = { temperature: 0, max_tokens: 8 };

test("the contract's image input: bytes, base64, a data URL", seen, async () => {
  const see = async (image: string | Uint8Array) =>
    (await model.generate("<image> What is it?", { ...greedy, images: [image] })).text;
  const text = await see(red);
  expect(await see(red.toString("base64"))).toBe(text);
  expect(await see(`data:image/png;base64,${red.toString("base64")}`)).toBe(text);
  expect(await see(blue)).not.toBe(text);
  const blind = (await model.generate("What is it?", greedy)).text;
  expect(blind).not.toBe(text);
  await expect(see("no image")).rejects.toThrow(InvalidArgumentError);
  await expect(see(Buffer.from("no image"))).rejects.toThrow(/image 0 cannot be decoded/);
});

test("OpenAI's form gives the same answer as the contract's", seen, async () => {
  const ask = (...images: Buffer[]) => {
    const parts = images.map((image) => ({
      type: "image_url",
      image_url: { url: `data:image/png;base64,${image.toString("base64")}` },
    }));
    return model.chat([{ role: "user", content: [...parts, { type: "text", text: " What is it?" }] }], greedy);
  };
  const { text, usage } = await ask(red);
  const prompt = "user: <image> What is it?\nassistant:";
  expect((await model.generate(prompt, { ...greedy, images: [red] })).text).toBe(text);
  expect((await ask(blue)).text).not.toBe(text);
  // The short form: the bytes, or base64 text.
  for (const image of [red, red.toString("base64")]) {
    const content = [
      { type: "image", image },
      { type: "text", text: " What is it?" },
    ];
    expect((await model.chat([{ role: "user", content }], greedy)).text).toBe(text);
  }
  // The command line's --image.
  const file = join(images, "red.png");
  writeFileSync(file, red);
  checkVision({ kind: "folder", path: folder });
  const asked = conversation(undefined, " What is it?", readImages([file]));
  const signal = new AbortController().signal;
  expect((await askAs(model, asked, { signal, sampling: greedy })).text).toBe(text);
  const nothing = [{ role: "user", content: [{ type: "image", image: 5 }] }];
  await expect(model.chat(nothing, greedy)).rejects.toThrow(/messages\[0\]\.content\[0\]\.image must be bytes/);
  const two = await ask(red, blue);
  expect(two.text).not.toBe(text);
  expect(two.usage.promptTokens).toBeGreaterThan(usage.promptTokens);
  // More than limit_mm_per_prompt allows: vLLM's own refusal.
  await expect(ask(red, red, red)).rejects.toThrow(InvalidArgumentError);
});
