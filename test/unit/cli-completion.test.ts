import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { main } from "../../src/cli/main";
import { commands } from "../../src/cli/table";
import { unless } from "../support/skip";
import { context } from "./cli-context";
import { temporary } from "./runtime-files";

async function script(shell: string): Promise<string> {
  const surroundings = context();
  expect(await main(["completion", shell], surroundings)).toBe(0);
  return surroundings.stdout.text;
}

const folder = temporary();
mkdirSync(join(folder, "my models"));
writeFileSync(join(folder, "notes.txt"), "");

/** What bash offers for the last of these words. */
async function offered(...words: string[]): Promise<string[]> {
  const quoted = ["tritonode", ...words].map((word) => `'${word}'`).join(" ");
  // compopt works only while bash completes
  const program = `${await script("bash")}
compopt() { :; }
COMP_WORDS=(${quoted}); COMP_CWORD=${words.length}; _tritonode; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const lines = execFileSync("bash", ["--norc", "-c", program], { cwd: folder, encoding: "utf8" }).split("\n");
  return lines.filter((line) => line !== "");
}

describe("bash", () => {
  it("offers commands, options, values and files", async () => {
    expect(await offered("")).toEqual([...commands.map(({ name }) => name), "help", "--help", "--version"]);
    expect(await offered("he")).toEqual(["help"]);
    expect(await offered("help", "qu")).toEqual(["quantize"]);
    expect(await offered("run", "--ma")).toEqual(["--max-tokens"]);
    expect(await offered("setup", "--device", "c")).toEqual(["cpu", "cuda"]);
    expect(await offered("setup", "--device", "=", "cu")).toEqual(["cuda"]);
    expect(await offered("quantize", "--bits", "")).toEqual(["4", "8"]);
    expect(await offered("completion", "z")).toEqual(["zsh"]);
    expect(await offered("remove", "--dir", "")).toEqual(["my models"]);
    expect(await offered("run", "--max-tokens", "")).toEqual([]);
  });

  it("offers files with spaces as one", async () => {
    expect((await offered("chat", "")).sort()).toEqual(["my models", "notes.txt"]);
    expect(await offered("inspect", "m")).toEqual(["my models"]);
  });
});

// Shells that are not on every machine.
const has = (shell: string) => spawnSync(shell, ["--version"]).status === 0;

it("zsh takes its script", unless(!has("zsh"), "zsh is not installed"), async () => {
  const text = await script("zsh");
  const file = join(temporary(), "_tritonode");
  writeFileSync(file, text);
  const program = `autoload -U compinit; compinit -D -u; source ${file}; print -r -- $_comps[tritonode]; whence -w _tritonode`;
  const told = execFileSync("zsh", ["-f", "-c", program], { encoding: "utf8" });
  expect(told).toBe("_tritonode\n_tritonode: function\n");
  for (const { name } of commands) expect(text).toContain(`    ${name})\n`);
});

it("fish offers what its script says", unless(!has("fish"), "fish is not installed"), async () => {
  const text = await script("fish");
  const file = join(temporary(), "tritonode.fish");
  writeFileSync(file, text);
  const ask = (line: string) =>
    execFileSync("fish", ["--no-config", "-c", `source ${file}; complete -C '${line}'`], { encoding: "utf8" })
      .trim()
      .split("\n")
      .map((each) => each.split("\t")[0]);
  expect(ask("tritonode qu")).toEqual(["quantize"]);
  expect(ask("tritonode run --max")).toEqual(["--max-tokens"]);
  expect(ask("tritonode setup --device ")).toEqual(["cpu", "cuda"]);
  expect(ask("tritonode completion ").sort()).toEqual(["bash", "fish", "zsh"]);
});

it("completion --json has the table itself", async () => {
  const surroundings = context();
  expect(await main(["completion", "bash", "--json"], surroundings)).toBe(0);
  expect(JSON.parse(surroundings.stdout.text).commands).toHaveLength(commands.length);
});
