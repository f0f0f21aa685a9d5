import { execFileSync, spawn, spawnSync } from "node:child_process";
import { cpSync, existsSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { VllmModel } from "../../src";
import { main } from "../../src/cli/main";
import { temporaryFolder } from "../support/folders";
import { fixtures, paths, root } from "../support/paths";
import { context } from "../unit/cli-context";

// The commands for one person on SmolLM2 and its two trained adapters. Commands of this process share one loaded model.

const folder = temporaryFolder();
const program = join(root, "dist/cli/main.js");
const model = join(folder, "my model");
const loras = {
  pirate: join(paths.workspace, "weights/loras/alpaca"),
  json: join(paths.workspace, "weights/loras/bactrian"),
};
const adapters = Object.entries(loras).flatMap(([name, path]) => ["--lora", `${name}=${path}`]);
const greedy = ["--temperature", "0", "--max-tokens", "16"];
const question = "What is the capital of Germany?";

let held: VllmModel;
beforeAll(async () => {
  symlinkSync(join(paths.workspace, "weights/backbone/smollm2-135m-instruct"), model);
  held = await VllmModel.load({ engine: { enforce_eager: true, model }, loras });
});
afterAll(() => held.dispose());

/** Runs a command in this process, where it shares the model. */
async function command(words: string[], options: Parameters<typeof context>[0] = {}) {
  const surroundings = context(options);
  const code = await main(words, surroundings);
  return { code, stdout: surroundings.stdout.text, stderr: surroundings.stderr.text };
}

/** What the library answers, through the model's own chat template. */
async function answer(content: string, lora?: string): Promise<string> {
  const { text } = await held.chat([{ role: "user", content }], { lora, temperature: 0, max_tokens: 16 });
  return text;
}

describe("run", () => {
  test("the answer alone on standard output, through the model's own chat template", async () => {
    const { code, stdout, stderr } = await command(["run", model, question, ...greedy, ...adapters]);
    expect(stderr).toMatch(/\d+ tokens, [\d.]+ tokens\/s, the first after [\d.]+ s/);
    expect(code).toBe(0);
    expect(stdout).toBe(`${await answer(question, "pirate")}\n`);
    expect(stdout).toContain("Arrr");
  });

  test("a prompt from standard input, another adapter, JSON", async () => {
    const words = ["run", model, "-", "--use", "json", "--json", "--quiet", ...greedy, ...adapters];
    const { code, stdout, stderr } = await command(words, { input: `${question}\n` });
    expect([code, stderr]).toEqual([0, ""]);
    const result = JSON.parse(stdout);
    expect(result).toMatchObject({ text: await answer(question, "json"), lora: "json" });
    expect(result.usage.completion_tokens).toBeGreaterThan(1);
  });

  test("--raw continues the text as it is", async () => {
    const words = ["run", model, "The capital of Germany is", "--raw", "--use", "json", ...greedy, ...adapters];
    const { text } = await held.generate("The capital of Germany is", { lora: "json", temperature: 0, max_tokens: 16 });
    expect((await command(words)).stdout.trimEnd()).toBe(text.trimEnd());
  });

  test("a wrong adapter or sampling parameter is named, before or after the load", async () => {
    const adapter = await command(["run", model, question, "--use", "pirat", ...adapters]);
    expect(adapter.stderr).toContain("did you mean pirate?");
    expect(adapter.code).toBe(2);
    const words = ["run", model, question, "--json", "--sampling-parameters", '{"top_p": 7}', ...adapters];
    const sampling = await command(words);
    expect(sampling.code).toBe(2);
    expect(JSON.parse(sampling.stdout)).toMatchObject({ event: "error", code: "ERR_INVALID_ARGUMENT" });
    expect(sampling.stderr).toContain("top_p");
  });
});

describe("run FILE", () => {
  const rows = [
    { prompt: question },
    { prompt: question, lora: "pirate" },
    { id: "conversation", messages: [{ role: "user", content: question }], lora: "json" },
    { prompt: question, lora: "pirate", max_tokens: -5 },
    { prompt: question, lora: null, max_tokens: 2 },
  ];
  const input = join(folder, "prompts.jsonl");
  const output = join(folder, "results.jsonl");
  const words = ["run", model, input, ...greedy, ...adapters];
  const read = (path: string) =>
    readFileSync(path, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
  beforeAll(() => writeFileSync(input, rows.map((row) => `${JSON.stringify(row)}\n`).join("")));

  test("an adapter for each line, results in order, failures apart; again: only what is missing", async () => {
    const first = await command([...words, "--out", output]);
    expect(first.code).toBe(1);
    expect(first.stderr).toContain("5 lines: 4 answered, 1 failed");
    const results = read(output);
    expect(results.map(({ line, id }) => [line, id])).toEqual([
      [1, 1],
      [2, 2],
      [3, "conversation"],
      [5, 5],
    ]);
    expect(results[0].text).toBe(await answer(question));
    expect(results[1]).toMatchObject({ lora: "pirate", input: rows[1], text: await answer(question, "pirate") });
    expect(results[2].text).toContain('{"answer"');
    expect(results[3]).toMatchObject({ lora: null, finish_reason: "length", usage: { completion_tokens: 2 } });
    const [failure] = read(join(folder, "results.failed.jsonl"));
    expect(failure).toMatchObject({ line: 4, input: rows[3], error: { code: "ERR_INVALID_ARGUMENT" } });
    expect(failure.error.message).toContain("max_tokens");

    const before = readFileSync(output, "utf8");
    const again = await command([...words, "--out", output]);
    expect(again.stderr).toContain("5 lines: 0 answered, 4 had results already, 1 failed");
    expect(readFileSync(output, "utf8")).toBe(before);
  });

  test("results on standard output, in the order of the lines", async () => {
    const { stdout } = await command([...words, "--quiet"]);
    const lines = stdout.trim().split("\n");
    expect(lines.map((line) => JSON.parse(line).line)).toEqual([1, 2, 3, 5]);
  });

  test("interrupted, it keeps what is there, and the same command goes on", async () => {
    const many = Array.from({ length: 12 }, (_, number) => JSON.stringify({ prompt: `Count from ${number}.` }));
    const count = (path: string) => (existsSync(path) ? readFileSync(path, "utf8").split("\n").length - 1 : 0);
    const results = join(folder, "counted.jsonl");
    const controller = new AbortController();
    writeFileSync(join(folder, "count.jsonl"), many.join("\n"));
    const counting = [
      "run",
      model,
      join(folder, "count.jsonl"),
      "--out",
      results,
      "--use",
      "json",
      ...greedy,
      ...adapters,
    ];
    const running = command([...counting, "--parallel", "1"], { signal: controller.signal });
    while (count(results) < 2) await sleep(5);
    controller.abort("SIGINT");
    const { code, stderr } = await running;
    expect(code).toBe(130);
    const kept = count(results);
    expect(stderr).toContain(`${kept} of 12 lines are answered; the same command continues with the rest`);
    expect(kept).toBeLessThan(12);
    const rest = await command(counting);
    expect(rest.stderr).toContain(`12 lines: ${12 - kept} answered, ${kept} had results already`);
    expect(read(results).map(({ line }) => line)).toEqual(many.map((_, index) => index + 1));
  });

  test("an adapter that no line would use, or that is not there, is refused before the load", async () => {
    const plain = join(folder, "plain.jsonl");
    writeFileSync(plain, '{"prompt": "Hi"}\n');
    const unused = await command(["run", model, plain, ...adapters]);
    expect(unused.stderr).toContain("--lora pirate would not be used");
    writeFileSync(plain, '{"prompt": "Hi", "lora": "jsn"}\n');
    const unknown = await command(["run", model, plain, ...adapters]);
    expect(unknown.stderr).toContain(`plain.jsonl, line 1, names the adapter "jsn"`);
    expect([unused.code, unknown.code]).toEqual([2, 2]);
  });
});

test("chat: the conversation, adapters, system message, files; answers alone on standard output", async () => {
  const file = join(folder, "my talk.json");
  const input = [
    question,
    "/lora json",
    "/clear",
    question,
    "/adapters",
    "/lora nobody",
    "/lroa",
    `/save ${file}`,
    "/base",
    "/system Answer in one word.",
    "/clear",
    `/load ${file}`,
    "/clear",
    "and a turn\\",
    "of two lines",
    "/exit",
    "never asked",
  ];
  const words = ["chat", model, ...greedy, ...adapters];
  const { code, stdout, stderr } = await command(words, { input: input.join("\n") });
  expect(code).toBe(0);
  const wanted = [await answer(question, "pirate"), await answer(question, "json")];
  wanted.push(await answer("and a turn\nof two lines", "json"));
  expect(stdout).toBe(wanted.map((text) => `${text}\n`).join(""));
  expect(stderr).toContain("there is no adapter 'nobody'");
  expect(stderr).toContain("did you mean /lora?");
  expect(stderr).toMatch(/\* json {2}rank 8/);
  expect(stderr).toContain("2 messages\n");
  expect(JSON.parse(readFileSync(file, "utf8"))).toEqual({
    lora: "json",
    messages: [
      { role: "user", content: question },
      { role: "assistant", content: wanted[1] },
    ],
  });
});

test("chat --json, going on with a conversation from a file", async () => {
  const file = join(folder, "talk.json");
  const messages = [
    { role: "user", content: "My name is Ada." },
    { role: "assistant", content: "Hello Ada." },
  ];
  writeFileSync(file, JSON.stringify(messages));
  const words = ["chat", model, "--load", file, "--json", ...greedy, ...adapters];
  const { stdout } = await command(words, { input: question });
  const conversation = [...messages, { role: "user", content: question }];
  const { text } = await held.chat(conversation, { lora: "pirate", temperature: 0, max_tokens: 16 });
  expect(JSON.parse(stdout)).toMatchObject({ text, lora: "pirate" });
});

test("info tells what the model's files hold", async () => {
  const { code, stdout } = await command(["info", model, "--json"]);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ architecture: "LlamaForCausalLM", chat_template: true, context: 8192 });
});

/** Runs the program in a pseudo-terminal, and types. */
function terminal(words: string[], steps: { wait: string; type: string }[]) {
  const request = { argv: [process.execPath, program, ...words], steps, timeout: 170 };
  const script = join(root, "test/support/terminal.py");
  const child = spawn(paths.python, [script, JSON.stringify(request)], {
    // Not the history of whoever runs the tests.
    env: { ...process.env, NO_COLOR: "1", TERM: "xterm", XDG_STATE_HOME: folder, TRITONODE_CHAT_HISTORY: undefined },
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.setEncoding("utf8").on("data", (piece: string) => {
    text += piece;
  });
  return new Promise<{ code: number; screen: string; left: number }>((resolve) =>
    child.on("close", () => resolve(JSON.parse(text))),
  );
}

test("chat at a terminal, on a GGUF file: prompts, pasted lines, Ctrl-C at each stage", async () => {
  const file = execFileSync(paths.python, ["-c", "import make_backbone; print(make_backbone.find_gguf())"], {
    env: { ...process.env, PYTHONPATH: join(root, "examples/tutorial") },
    encoding: "utf8",
  }).trim();
  const words = [
    "chat",
    file,
    "--max-tokens",
    "400",
    "--sampling-parameters",
    '{"temperature": 0, "ignore_eos": true}',
  ];
  const saved = join(folder, "typed.json");
  const { code, screen, left } = await terminal(words, [
    { wait: "> ", type: "never sent\u0003" },
    { wait: "> ", type: "/system Be\\\r" },
    { wait: "\\.\\.\\. ", type: "brief.\r" },
    { wait: "is set", type: "\u001b[200~one\rtwo\r\u001b[201~three\r" },
    { wait: "three\\r+\\n[^>]*\\w\\w", type: "\u0003" },
    { wait: "[1-9]\\d* tokens?, .*, stopped", type: `/save ${saved}\r` },
    { wait: "saved(.|\\n)*> ", type: "\u0003" },
  ]);
  expect(screen.slice(-500) + left).toMatch(/0$/);
  expect(code).toBe(0);
  expect(screen).toContain("loading the weights");
  const history = join(folder, "tritonode/chat_history");
  expect(readFileSync(history, "utf8")).toBe(`/system Be\\\nbrief.\none\ntwo\nthree\n/save ${saved}\n`);
  expect(statSync(history).mode & 0o777).toBe(0o600);
  const { messages } = JSON.parse(readFileSync(saved, "utf8"));
  expect(messages).toMatchObject([
    { role: "system", content: "Be\nbrief." },
    { role: "user", content: "one\ntwo\nthree" },
    { role: "assistant" },
  ]);
}, 200_000);

test("standard output that can't be written is an error of one line", () => {
  const script = `'${process.execPath}' '${program}' help run > /dev/full; echo $?`;
  const { stdout, stderr } = spawnSync("bash", ["-c", script], { encoding: "utf8" });
  expect(stderr).toMatch(/^error: standard output can't be written: ENOSPC.*\n$/);
  expect(stdout).toBe("1\n");
});

test("a model without a chat template, a reader that goes away", async () => {
  const plain = join(folder, "plain model");
  cpSync(fixtures.models.tiny, plain, { recursive: true });
  rmSync(join(plain, "chat_template.jinja"), { force: true });
  const settings = join(plain, "tokenizer_config.json");
  const { chat_template: _, ...others } = JSON.parse(readFileSync(settings, "utf8"));
  writeFileSync(settings, JSON.stringify(others));
  const words = ["run", plain, "Hello", "--max-tokens", "400", "--sampling-parameters", '{"ignore_eos": true}'];
  const quoted = [process.execPath, program, ...words].map((word) => `'${word}'`).join(" ");
  const script = `${quoted} 2> notes.txt | head -c 10 > begin.txt; echo \${PIPESTATUS[0]}`;
  const code = execFileSync("bash", ["-c", script], { cwd: folder, encoding: "utf8" });
  expect(readFileSync(join(folder, "notes.txt"), "utf8")).toContain("the model has no chat template");
  expect(readFileSync(join(folder, "begin.txt"))).toHaveLength(10);
  expect(code).toBe("0\n");
}, 120_000);
