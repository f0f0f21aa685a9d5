import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ResultsFile, ResultsStream } from "../../src/cli/batch/results";
import { readRows } from "../../src/cli/batch/rows";
import { temporary } from "./runtime-files";

const text = `{"prompt": "one"}
{"id": "b", "messages": [{"role": "user", "content": "two"}], "lora": "pirate", "temperature": 0}

{"prompt": "four", "lora": null}\r
`;

describe("readRows", () => {
  it("reads prompts and conversations, adapters and sampling parameters", () => {
    const { rows, bad } = readRows(text, "prompts.jsonl");
    expect(bad).toEqual([]);
    expect(rows.map(({ line, id, lora, sampling }) => [line, id, lora, sampling])).toEqual([
      [1, 1, undefined, {}],
      [2, "b", "pirate", { temperature: 0 }],
      [4, 4, null, {}],
    ]);
    expect(rows[1]?.question).toEqual({ messages: [{ role: "user", content: "two" }] });
  });

  it("keeps what can't be asked apart, with the reason", () => {
    const lines = [
      '{"prompt": "fine"}',
      "not JSON",
      "[1]",
      "{}",
      '{"prompt": "", "id": "e"}',
      '{"prompt": "x", "messages": [{}]}',
      '{"messages": []}',
      '{"prompt": "x", "lora": 5}',
      '{"prompt": "x", "id": [1]}',
      '{"prompt": "x", "n": 2}',
    ];
    const { rows, bad } = readRows(lines.join("\n"), "prompts.jsonl");
    expect(rows).toHaveLength(1);
    expect(bad.map(({ line }) => line)).toEqual([2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(bad[3]).toMatchObject({ id: "e", input: { prompt: "" } });
    expect(new Set(bad.map(({ error }) => error.message)).size).toBe(8);
  });

  it("refuses a file without a prompt, and an id that is there twice", () => {
    expect(() => readRows("\n\n", "empty.jsonl")).toThrow("empty.jsonl holds no prompts");
    expect(() => readRows("hello\nworld", "notes.jsonl")).toThrow("notes.jsonl, line 1: not JSON");
    const twice = '{"prompt": "a", "id": 7}\n{"prompt": "b", "id": 7}';
    expect(() => readRows(twice, "x.jsonl")).toThrow("x.jsonl: lines 1 and 2 have the same id 7");
  });
});

describe("ResultsFile", () => {
  const { rows } = readRows(text, "prompts.jsonl");
  const result = (index: number, answer: string) => {
    const { line = 0, id = 0, input } = rows[index] ?? {};
    return { line, id, input, text: answer };
  };
  const read = (path: string) =>
    readFileSync(path, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line).text ?? JSON.parse(line).error);

  it("goes on with what is there, and ends in the order of the lines", () => {
    const path = join(temporary(), "results.jsonl");
    const first = new ResultsFile(path, rows);
    first.add(result(2, "third"));
    first.fail({ ...result(1, ""), text: undefined, error: "no" });
    // Killed while it wrote: the line that is cut off does not count.
    appendFileSync(path, '{"line": 1, "id": 1, "inp');
    const second = new ResultsFile(path, rows);
    expect(rows.map((row) => second.has(row))).toEqual([false, false, true]);
    expect(existsSync(second.failedPath)).toBe(false);
    second.fail({ ...result(1, ""), text: undefined, error: "again" });
    second.add(result(0, "first"));
    second.finish();
    expect(read(path)).toEqual(["first", "third"]);
    expect(second.failedPath).toBe(path.replace("results", "results.failed"));
    expect(read(second.failedPath)).toEqual(["again"]);
  });

  it("refuses results of other prompts, and files of another kind", () => {
    const path = join(temporary(), "results.jsonl");
    new ResultsFile(path, rows).add(result(0, "first"));
    const other = readRows('{"prompt": "another"}', "prompts.jsonl");
    expect(() => new ResultsFile(path, other.rows)).toThrow("holds the result of another prompt under 1");
    for (const content of ["my notes", "my notes\n", '{"a": 1}\n']) {
      writeFileSync(path, content);
      expect(() => new ResultsFile(path, rows)).toThrow("is not a result of tritonode run");
      expect(readFileSync(path, "utf8")).toBe(content);
    }
    expect(() => new ResultsFile("/no/folder/results.jsonl", rows)).toThrow("/no/folder/results.jsonl");
  });
});

it("ResultsStream writes in the order of the lines, whatever comes first", () => {
  let written = "";
  const stream = new ResultsStream(
    [1, 2, 3, 4].map((line) => ({ line })),
    (piece) => {
      written += piece;
    },
  );
  const add = (line: number) => stream.add({ line, id: line, input: {} });
  add(2);
  expect(written).toBe("");
  add(1);
  stream.fail({ line: 3, id: 3, input: {} });
  expect(written.match(/"line":\d/g)).toEqual(['"line":1', '"line":2']);
  add(4);
  expect(written.split("\n")).toHaveLength(4);
});
