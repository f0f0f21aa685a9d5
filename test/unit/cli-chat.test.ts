import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Conversation } from "../../src/cli/chat/conversation";
import { Input } from "../../src/cli/chat/input";
import { Turns } from "../../src/cli/chat/turns";
import { context } from "./cli-context";
import { temporary } from "./runtime-files";

/** The turns that lines make. */
function turnsOf(lines: string[]): string[] {
  const turns = new Turns();
  const complete = lines.map((line) => turns.push(line)).filter((turn) => turn !== undefined);
  return turns.open ? [...complete, `open: ${turns.end()}`] : complete;
}

describe("Turns", () => {
  it("are lines, but for those that end in a backslash", () => {
    expect(turnsOf(["one", " two ", ""])).toEqual(["one", "two", ""]);
    expect(turnsOf(["one\\", "two\\", "three", "four"])).toEqual(["one\ntwo\nthree", "four"]);
    expect(turnsOf(["one\\", "two\\"])).toEqual(["open: one\ntwo"]);
  });

  it("are what stands between fences, empty lines and backslashes included", () => {
    expect(turnsOf(['"""', "one", "", "two\\", '"""', "three"])).toEqual(["one\n\ntwo\\", "three"]);
    expect(turnsOf(['"""one', 'two"""'])).toEqual(["one\ntwo"]);
    expect(turnsOf(['"""one"""', 'say """'])).toEqual(["one", 'say """']);
    expect(turnsOf(['"""', "never closed"])).toEqual(["open: never closed"]);
  });

  it("hold pasted lines until the one that is typed", () => {
    const turns = new Turns();
    turns.hold("pasted");
    turns.hold("");
    expect(turns.push("typed")).toBe("pasted\n\ntyped");
  });
});

it("a pipe's turns come one by one, the last one without a line end", async () => {
  const surroundings = context({ input: 'one\ntwo\\\nthree\n"""\nfour' });
  const input = new Input(surroundings, { prompt: () => "> ", interrupt: () => false });
  const seen: string[] = [];
  for (let turn = await input.next(); turn !== undefined; turn = await input.next()) seen.push(turn);
  expect(seen).toEqual(["one", "two\nthree", "four"]);
  expect(surroundings.stdout.text).toBe("");
});

describe("Conversation", () => {
  it("is the same after it was saved and loaded", () => {
    const path = join(temporary(), "my talk.json");
    const conversation = new Conversation();
    conversation.system = "Be brief.";
    conversation.lora = "pirate";
    conversation.add("Hi", "Arrr");
    conversation.save(path);
    const loaded = Conversation.load(path);
    expect(loaded).toEqual(conversation);
    expect(loaded.with("Bye")).toEqual([
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Arrr" },
      { role: "user", content: "Bye" },
    ]);
    loaded.add("Bye", "Arrr!");
    loaded.save(path);
    expect(Conversation.load(path).turns).toHaveLength(4);
  });

  it("takes a plain list of messages", () => {
    const path = join(temporary(), "list.json");
    writeFileSync(path, '[{"role": "user", "content": "Hi"}]');
    expect(Conversation.load(path).messages()).toEqual([{ role: "user", content: "Hi" }]);
  });

  it("overwrites no other file, and reads none", () => {
    const path = join(temporary(), "notes.txt");
    for (const text of ["my notes", '{"name": "x"}', '{"messages": ["x"]}', "null"]) {
      writeFileSync(path, text);
      expect(() => new Conversation().save(path)).toThrow("is not a conversation");
      expect(() => Conversation.load(path)).toThrow("is not a conversation");
      expect(readFileSync(path, "utf8")).toBe(text);
    }
    expect(() => Conversation.load("/no/file")).toThrow("/no/file can't be read: ENOENT");
    expect(() => new Conversation().save("/no/folder/file")).toThrow("/no/folder/file can't be written");
  });
});
