import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";

// The program itself on the tutorial's workspace, as `npm test` lays it out.
const root = join(__dirname, "../..");
const { workspace } = JSON.parse(readFileSync(join(root, ".cache", "paths.json"), "utf8")) as { workspace: string };
const repository = join(workspace, "model_repository");

const folder = mkdtempSync(join(tmpdir(), "tritonode-cli-test-"));
writeFileSync(join(folder, "prompts.txt"), "Question: What is the capital of Germany? Answer:\nHello, my name is\n");
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs `tritonode` in the test's folder; `interrupt` sends SIGINT on that text. */
function tritonode(words: string[], options: { interrupt?: string } = {}): Promise<Ended> {
  const program = join(root, "dist", "cli", "main.js");
  const child = spawn(process.execPath, [program, ...words], { cwd: folder });
  let stdout = "";
  let stderr = "";
  let interrupted = false;
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
    // once: a second signal makes it leave at once
    if (options.interrupt !== undefined && !interrupted && stderr.includes(options.interrupt)) {
      interrupted = child.kill("SIGINT");
    }
  });
  child.stdin.end();
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, stdout, stderr })));
}

describe("tritonode generate", () => {
  it("writes the client script's file: whole answers behind their prompts", async () => {
    const { code, stdout, stderr } = await tritonode(["generate", "--model-repository", repository, "-l", "bactrian"]);
    expect(stdout).toBe(
      "Loading inputs from `prompts.txt`...\nStoring results into `results.txt`...\nPASS: vLLM example\n",
    );
    expect(stderr).toMatch(/importing vLLM[\s\S]*ready/);
    expect(stderr).not.toContain("\u001b");
    expect(code).toBe(0);
    const results = readFileSync(join(folder, "results.txt"), "utf8").split("\n\n=========\n\n");
    expect(results).toHaveLength(3);
    expect(results[0]).toMatch(/^Question: What is the capital of Germany\? Answer:\n/);
    expect(results[0]).toContain('{"answer":');
    expect(results[1]).toMatch(/^Hello, my name is\n/);
    expect(results[2]).toBe("");
  }, 120_000);

  it("streams to the same answers, without the prompts when they are excluded", async () => {
    const greedy = ["--sampling-parameters", '{"temperature": 0, "max_tokens": 12}', "--model-repository", repository];
    const flags = ["-m", "vllm_model", "--offset", "3", "--iterations", "2", "--exclude-inputs-in-outputs"];
    const streamed = await tritonode(["generate", ...greedy, ...flags, "-s", "-v", "--results-file", "streamed.txt"]);
    expect(streamed.stdout).toContain("Contents of `streamed.txt` ===>");
    expect(streamed.stderr).toContain("vLLM");
    // the test above has loaded this model: that tells how long it takes
    expect(streamed.stderr).toMatch(/about \d+ s left\)/);
    expect(streamed.code).toBe(0);
    const results = readFileSync(join(folder, "streamed.txt"), "utf8").split("\n\n=========\n\n");
    expect(results).toHaveLength(5);
    expect(results.join("")).not.toContain("Hello, my name is");
  }, 120_000);

  it("fails with the reason for an adapter that is not there, and exits with 1", async () => {
    const { code, stdout } = await tritonode(["generate", "--model-repository", repository, "-l", "alpacca"]);
    expect(stdout).toContain(
      "Encountered error while processing: there is no adapter 'alpacca' (did you mean 'alpaca'?)",
    );
    expect(stdout).toContain("FAIL: vLLM example");
    expect(code).toBe(1);
  }, 120_000);

  it("says which file or folder is missing before it loads anything", async () => {
    const prompts = await tritonode(["generate", "--input-prompts", "no.txt"]);
    expect(prompts.stderr).toContain("no.txt");
    expect(prompts.code).toBe(2);
    const models = await tritonode(["generate"]);
    expect(models.stderr).toContain("the model repository");
    expect(models.code).toBe(2);
  });

  it("ends in good order when it is interrupted while it loads", async () => {
    const words = ["generate", "--model-repository", repository];
    const { code, stderr } = await tritonode(words, { interrupt: "importing vLLM" });
    expect(stderr).toContain("interrupted");
    expect(code).toBe(130);
  }, 120_000);
});
