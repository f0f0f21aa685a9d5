import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { main } from "../../src/cli/main";
import { commands } from "../../src/cli/table";
import { context } from "./cli-context";
import { temporary } from "./runtime-files";

describe("main", () => {
  it("prints the version of the package", async () => {
    const surroundings = context();
    expect(await main(["--version"], surroundings)).toBe(0);
    const { version } = JSON.parse(readFileSync(join(__dirname, "../../package.json"), "utf8"));
    expect(surroundings.stdout.text).toBe(`${version}\n`);
  });

  it("lists the commands, as an answer to --help and as an error without one", async () => {
    const asked = context();
    expect(await main(["--help"], asked)).toBe(0);
    for (const { name, summary } of commands)
      expect(asked.stdout.text).toMatch(new RegExp(`^  ${name} +${summary}$`, "m"));
    const bare = context();
    expect(await main([], bare)).toBe(2);
    expect(bare.stdout.text).toBe("");
    expect(bare.stderr.text).toBe(asked.stdout.text);
  });

  it.each(commands.map(({ name }) => name))("explains %s", async (name) => {
    for (const words of [
      [name, "--help"],
      [name, "--nonsense", "-h"],
      ["help", name],
    ]) {
      const surroundings = context();
      expect(await main(words, surroundings)).toBe(0);
      expect(surroundings.stdout.text).toMatch(new RegExp(`^Usage: tritonode ${name}\\b`));
      const wide = surroundings.stdout.text.split("\n").filter((line) => line.length > 100 && line.includes("  "));
      expect(wide).toEqual([]);
    }
  });

  it("documents every flag of the seed's client script", async () => {
    const surroundings = context();
    await main(["generate", "--help"], surroundings);
    for (const flag of [
      "-m, --model",
      "-v, --verbose",
      "-t, --stream-timeout",
      "--offset",
      "--input-prompts",
      "--results-file",
      "--iterations",
      "-s, --streaming-mode",
      "--exclude-inputs-in-outputs",
      "-l, --lora-name",
    ]) {
      expect(surroundings.stdout.text).toContain(`  ${flag}`);
    }
  });

  it("answers nonsense with code 2, the word, and a way out", async () => {
    const command = context();
    expect(await main(["genarate"], command)).toBe(2);
    expect(command.stderr.text).toContain('unknown command "genarate"');
    expect(command.stderr.text).toContain("did you mean generate?");
    const option = context();
    expect(await main(["setup", "--device", "tpu"], option)).toBe(2);
    expect(option.stderr.text).toContain('--device "tpu" is not known');
    expect(await main(["toString"], context())).toBe(2);
    const version = context();
    expect(await main(["--verson"], version)).toBe(2);
    expect(version.stderr.text).toContain("unknown option --verson\nhint:  did you mean --version?");
    const json = context();
    expect(await main(["doctor", "--jsom"], json)).toBe(2);
    expect(json.stderr.text).toContain("did you mean --json?");
    expect(await main(["info", "/no/model", "--json"], json)).toBe(2);
    expect(JSON.parse(json.stdout.text)).toMatchObject({ event: "error", code: "ERR_MODEL_NOT_FOUND" });
    expect(await main(["generate", "--iterations", "no"], context())).toBe(2);
  });

  it("says nothing and succeeds when nobody reads standard output any more", async () => {
    const controller = new AbortController();
    controller.abort("EPIPE");
    const surroundings = context({ signal: controller.signal });
    expect(await main(["setup", "--device", "cpu", "--dir", temporary()], surroundings)).toBe(0);
    expect(surroundings.stderr.text).not.toContain("error");
  });

  it("says which words of run do not go together, before anything is loaded", async () => {
    const model = temporary();
    writeFileSync(join(model, "config.json"), "{}");
    const prompts = join(model, "prompts.jsonl");
    writeFileSync(prompts, '{"prompt": "Hi"}\n');
    const cases: [string[], string][] = [
      [["run", model, prompts, prompts], "is a file of prompts, and there are other arguments"],
      [["run", model, "Hi", "--file", prompts], "--file and the prompt"],
      [["run", model, "Hi", "--out", "x.jsonl"], "--out goes with a file of prompts"],
      [["run", model, join(model, "none.jsonl")], "the prompts can't be read"],
      [["run", model, prompts, "--parallel", "0"], "--parallel"],
      [["run", model], "the prompt is empty"],
      [["run", model, "Hi", "--use", "pirate"], '--use names the adapter "pirate", which no --lora gives'],
      [["run", model, "Hi", "--temperature", "-1"], '--temperature: the value "-1" begins with -'],
      [["run", model, "Hi", "--sampling-parameters", '{"n": 2}'], "n is 2"],
      [["chat", model, "--model", model], "an option names the model already"],
      [["chat", model, "--load", "/no/file"], "/no/file can't be read"],
      [["chat", model, "--context", "0"], "--context"],
    ];
    for (const [words, message] of cases) {
      const surroundings = context();
      expect([await main(words, surroundings), surroundings.stderr.text]).toEqual([
        2,
        expect.stringContaining(message),
      ]);
    }
  });

  it("ends with the code of the signal that interrupted it", async () => {
    const controller = new AbortController();
    controller.abort("SIGINT");
    const surroundings = context({ signal: controller.signal });
    expect(await main(["setup", "--device", "cpu", "--dir", temporary()], surroundings)).toBe(130);
    expect(surroundings.stderr.text).toContain("interrupted");
  });

  it("prints doctor's findings as lines or as JSON, and fails when one does", async () => {
    const plain = context();
    expect(await main(["doctor", "--dir", "/no/runtime"], plain)).toBe(1);
    expect(plain.stdout.text).toMatch(
      /^FAIL {2}runtime +no runtime in \/no\/runtime\n +fix: run: npx tritonode setup/m,
    );
    expect(plain.stdout.text).not.toContain("\u001b");
    const json = context();
    expect(await main(["doctor", "--dir", "/no/runtime", "--json"], json)).toBe(1);
    const checks = json.stdout.text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(checks.at(-1)).toMatchObject({ name: "runtime", status: "fail" });
  });
});
