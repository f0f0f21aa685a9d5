import { chmodSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Conversation } from "../../src/cli/chat/conversation";
import { HISTORY_LINES, History, historyFile } from "../../src/cli/chat/history";
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

describe("History", () => {
  it("keeps lines in a file that only the user can read, and no more than it says", () => {
    const file = join(temporary(), "state/chat_history");
    const warnings: string[] = [];
    const history = new History(file, (text) => warnings.push(text));
    expect(history.lines()).toEqual([]);
    for (const line of ["one", "", " not this one", "x".repeat(3000), "two"]) history.add(line);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    chmodSync(file, 0o644);
    expect(new History(file, (text) => warnings.push(text)).lines()).toEqual(["two", "one"]);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    for (let line = 0; line < 2 * HISTORY_LINES; line++) history.add(`line ${line}`);
    expect(history.lines()).toHaveLength(HISTORY_LINES);
    expect(history.lines()[0]).toBe(`line ${2 * HISTORY_LINES - 1}`);
    expect(readFileSync(file, "utf8").split("\n")).toHaveLength(HISTORY_LINES + 1);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(warnings).toEqual([]);
  });

  it("can be elsewhere, or off; a file that can't be used is said once", () => {
    expect(historyFile({ HOME: "/home/me" })).toBe("/home/me/.local/state/tritonode/chat_history");
    expect(historyFile({ XDG_STATE_HOME: "/state" })).toBe("/state/tritonode/chat_history");
    expect(historyFile({ TRITONODE_CHAT_HISTORY: "/a/file" })).toBe("/a/file");
    expect(historyFile({ TRITONODE_CHAT_HISTORY: "" })).toBeUndefined();
    const warnings: string[] = [];
    const history = new History("/dev/null/history", (text) => warnings.push(text));
    history.add("one");
    history.add("two");
    expect(warnings).toEqual([expect.stringContaining("the input history is not kept")]);
  });

  it("gives the arrow keys the lines of the last session, and keeps those of this one", async () => {
    const file = join(temporary(), "history");
    writeFileSync(file, "the first\nthe last\n");
    // Up, up, Enter; then a new line.
    const surroundings = context({ input: "\u001b[A\u001b[A\rnew\r" });
    Object.assign(surroundings.stdin, { isTTY: true });
    Object.assign(surroundings.stdout, { isTTY: true, on: () => {}, off: () => {} });
    const history = new History(file, expect.unreachable);
    const input = new Input(surroundings, { prompt: () => "> ", interrupt: () => false, history });
    const seen: string[] = [];
    for (let turn = await input.next(); turn !== undefined; turn = await input.next()) seen.push(turn);
    expect(seen).toEqual(["the first", "new"]);
    expect(readFileSync(file, "utf8")).toBe("the first\nthe last\nthe first\nnew\n");
  });
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
