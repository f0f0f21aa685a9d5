import { describe, expect, it } from "vitest";
import { answer, formatResults, type GenerateFlags, readLines } from "../../src/cli/commands/generate";
import type { TextModel } from "../../src/cli/model";

const flags: GenerateFlags = {
  lora: undefined,
  streamTimeout: undefined,
  offset: 0,
  iterations: 1,
  streaming: false,
  excludeInputs: false,
  sampling: { temperature: 0.1 },
};

function saying(lines: string[] = []) {
  return { signal: new AbortController().signal, say: (text: string) => void lines.push(text) };
}

/** A model that answers with its prompt in capitals, letter by letter when it streams. */
function shouting(seen: [string, Record<string, unknown>][] = []): TextModel {
  const check = (prompt: string, options: Record<string, unknown>) => {
    seen.push([prompt, options]);
    if (prompt.startsWith("bad")) throw new Error("refused");
    return prompt.trim().toUpperCase();
  };
  return {
    generate: async (prompt, options) => ({ text: check(prompt, options) }),
    async *stream(prompt, options) {
      for (const text of check(prompt, options)) yield { text, index: 0 };
    },
  };
}

it("readLines keeps line ends as Python's readlines does", () => {
  expect(readLines("a\nb\n\nc")).toEqual(["a\n", "b\n", "\n", "c"]);
  expect(readLines("a\r\nb\r")).toEqual(["a\n", "b\n"]);
  expect(readLines("")).toEqual([]);
});

it("formatResults writes the client script's file", () => {
  const results = new Map([
    ["0", ["Hello", " world"]],
    ["1", []],
  ]);
  expect(formatResults(results)).toBe("Hello world\n\n=========\n\n\n\n=========\n\n");
});

describe("answer", () => {
  it("puts the prompt first unless it is excluded", async () => {
    const { results, errors } = await answer(shouting(), ["a\n", "b"], flags, saying());
    expect(errors.size).toBe(0);
    expect([...results]).toEqual([
      ["0", ["a\nA"]],
      ["1", ["bB"]],
    ]);
    const excluded = await answer(shouting(), ["a\n"], { ...flags, excludeInputs: true }, saying());
    expect([...excluded.results]).toEqual([["0", ["A"]]]);
  });

  it("streams to the same text", async () => {
    const streaming = { ...flags, streaming: true };
    const { results } = await answer(shouting(), ["ab\n"], streaming, saying());
    expect(results.get("0")).toEqual(["ab\nA", "B"]);
    const excluded = await answer(shouting(), ["ab\n"], { ...streaming, excludeInputs: true }, saying());
    expect(excluded.results.get("0")).toEqual(["A", "B"]);
  });

  it("numbers the requests from the offset, through all iterations", async () => {
    const seen: [string, Record<string, unknown>][] = [];
    const { results } = await answer(shouting(seen), ["a", "b"], { ...flags, offset: 5, iterations: 2 }, saying());
    expect([...results.keys()]).toEqual(["5", "6", "7", "8"]);
    expect(seen.map(([prompt, options]) => [prompt, options.requestId])).toEqual([
      ["a", "5"],
      ["b", "6"],
      ["a", "7"],
      ["b", "8"],
    ]);
  });

  it("passes adapter, deadline in milliseconds and sampling parameters on", async () => {
    const seen: [string, Record<string, unknown>][] = [];
    await answer(shouting(seen), ["a"], { ...flags, lora: "alpaca", streamTimeout: 1.5 }, saying());
    expect(seen[0]?.[1]).toMatchObject({ lora: "alpaca", deadline: 1500, temperature: 0.1 });
    await answer(shouting(seen), ["a"], flags, saying());
    expect(seen[1]?.[1]).not.toHaveProperty("lora");
    expect(seen[1]?.[1]).not.toHaveProperty("deadline");
  });

  it("reports a failed request and finishes the others", async () => {
    for (const streaming of [false, true]) {
      const lines: string[] = [];
      const { results, errors } = await answer(shouting(), ["bad", "b"], { ...flags, streaming }, saying(lines));
      expect([...errors.keys()]).toEqual(["0"]);
      expect(lines).toEqual(["Encountered error while processing: refused"]);
      expect([...results]).toEqual([
        ["0", []],
        ["1", ["bB"]],
      ]);
    }
  });

  it("rejects when it was interrupted", async () => {
    const controller = new AbortController();
    controller.abort("SIGINT");
    await expect(answer(shouting(), ["a"], flags, { ...saying(), signal: controller.signal })).rejects.toBe("SIGINT");
  });
});
