import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { type AskedModel, ask, samplingOf, speedNote } from "../../src/cli/ask";
import { checkVision, readImages } from "../../src/cli/images";
import { temporary } from "./runtime-files";

const signal = new AbortController().signal;

/** A model whose answer has no end, as far as its stream is concerned. */
function endless(onPiece: (count: number) => void): AskedModel {
  const stream = async function* (_: unknown, { signal }: { signal: AbortSignal }) {
    for (let count = 1; ; count++) {
      await new Promise((resolve) => setTimeout(resolve, 1));
      signal.throwIfAborted();
      yield { text: `${count} `, finishReason: null, usage: { promptTokens: 3, completionTokens: count } };
      onPiece(count);
    }
  };
  return { chatStream: stream } as unknown as AskedModel;
}

it("an answer that is stopped has its text and the number of its tokens", async () => {
  const stop = new AbortController();
  const model = endless((count) => count === 5 && stop.abort());
  const answer = await ask(model, { messages: [] }, { signal, stop: stop.signal, sampling: {} });
  expect(answer).toMatchObject({ text: "1 2 3 4 5 ", finishReason: "stopped", completionTokens: 5, promptTokens: 3 });
  expect(speedNote(answer)).toMatch(/^5 tokens, [\d.]+ tokens\/s, the first after [\d.]+ s, stopped$/);
});

it("sampling parameters are judged before the model is loaded", () => {
  const flags = { "max-tokens": "5" };
  const more = (text: string) => () => samplingOf({ ...flags, "sampling-parameters": text });
  expect(more('{"top_k": 3, "extra_args": {}, "skip_reading_prefix_cache": true}')()).toMatchObject({ top_k: 3 });
  expect(more('{"temprature": 1}')).toThrow(
    expect.objectContaining({
      message: '--sampling-parameters: there is no parameter "temprature"',
      hint: "did you mean temperature?",
    }),
  );
  expect(more('{"n": 2}')).toThrow(/n is 2/);
  expect(samplingOf({ ...flags, temperature: "0", "top-p": "1" })).toMatchObject({ temperature: 0, top_p: 1 });
  expect(() => samplingOf({ ...flags, temperature: "-4" })).toThrow('--temperature "-4" is below 0');
  for (const text of ["0", "1.5"]) expect(() => samplingOf({ ...flags, "top-p": text })).toThrow(/--top-p "/);
});

it("an answer that is cancelled from outside is an error", async () => {
  const cancel = new AbortController();
  const model = endless((count) => count === 2 && cancel.abort("SIGTERM"));
  await expect(ask(model, { messages: [] }, { signal: cancel.signal, sampling: {} })).rejects.toBe("SIGTERM");
});

it("images are read before the model is loaded, and refused for a model without vision", () => {
  const folder = temporary();
  const png = join(folder, "a.png");
  writeFileSync(png, Buffer.from("89504e470d0a1a0a00000000", "hex"));
  writeFileSync(join(folder, "notes.txt"), "not an image");
  expect(readImages([png])).toHaveLength(1);
  expect(() => readImages([join(folder, "notes.txt")])).toThrow(/notes\.txt is not an image/);
  expect(() => readImages([join(folder, "none.png")])).toThrow(/none\.png can't be read: ENOENT/);

  const model = (name: string, files: Record<string, string>) => {
    mkdirSync(join(folder, name));
    for (const [file, text] of Object.entries(files)) writeFileSync(join(folder, name, file), text);
    return { kind: "folder", path: join(folder, name) } as const;
  };
  expect(() => checkVision(model("llama", { "config.json": '{"hidden_size": 8}' }))).toThrow(/llama has no vision/);
  expect(() => checkVision({ kind: "gguf", path: "/m.gguf" })).toThrow(/\/m\.gguf has no vision/);
  checkVision(model("llava", { "config.json": '{"vision_config": {}}' }));
  checkVision(model("other", { "config.json": "{}", "preprocessor_config.json": "{}" }));
});
