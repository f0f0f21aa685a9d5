import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../support/folders";
import { paths, root } from "../support/paths";

// The tutorial's own flow, with the command line in place of its client script.

const folder = temporaryFolder();
const repository = join(paths.workspace, "model_repository");

/** Runs the built command line as a user would. */
function tritonode(...args: string[]) {
  return spawnSync(process.execPath, [join(root, "dist/cli/main.js"), ...args], { cwd: folder, encoding: "utf8" });
}

test("the workspace is the tutorial's", () => {
  const model = JSON.parse(readFileSync(join(repository, "vllm_model/1/model.json"), "utf8"));
  expect(Object.keys(model)).toEqual([
    "model",
    "disable_log_requests",
    "gpu_memory_utilization",
    "tensor_parallel_size",
    "block_size",
    "enforce_eager",
    "enable_lora",
    "max_lora_rank",
  ]);
  const loras = JSON.parse(readFileSync(join(repository, "vllm_model/1/multi_lora.json"), "utf8"));
  expect(Object.keys(loras)).toEqual(["alpaca", "bactrian"]);
});

describe("npx tritonode generate, with the client script's flags", () => {
  const prompts = join(paths.workspace, "prompts.txt");

  test("an adapter by -l, streamed: results file and PASS", () => {
    const results = join(folder, "results.txt");
    const run = tritonode(
      ...["generate", "--model-repository", repository, "-m", "vllm_model", "--input-prompts", prompts],
      ...["--results-file", results, "--exclude-inputs-in-outputs", "-s", "-l", "alpaca", "--offset", "7"],
    );
    expect(run.stdout + run.stderr).toContain("PASS: vLLM example");
    expect(run.status).toBe(0);
    const answers = readFileSync(results, "utf8").split("\n\n=========\n\n");
    const count = readFileSync(prompts, "utf8").trimEnd().split("\n").length;
    expect(answers.pop()).toBe("");
    expect(answers).toHaveLength(count);
    expect(answers.some((answer) => answer.includes("Arrr"))).toBe(true);
  });

  test("an adapter that is not there: FAIL and exit code 1", () => {
    const run = tritonode(
      ...["generate", "--model-repository", repository, "--input-prompts", prompts],
      ...["--results-file", join(folder, "none.txt"), "-l", "doll"],
    );
    expect(run.status).toBe(1);
    expect(run.stdout + run.stderr).toContain("FAIL: vLLM example");
    expect(run.stdout + run.stderr).toContain("there is no adapter 'doll'");
  });
});
