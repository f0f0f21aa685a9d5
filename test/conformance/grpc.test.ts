import { copyFileSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { temporaryFolder } from "../support/folders";
import { GrpcClient, type GrpcOutputs } from "../support/grpc";
import { tinyEngine, writeRepository } from "../support/models";
import { adapter, root } from "../support/paths";
import { type Reference, reference } from "../support/reference";
import { StockServer } from "../support/stock";
import { until } from "../support/triton";

// What clients of the stock tritonserver see over gRPC: all that the tests of Triton's own vLLM backend assert.

const folder = temporaryFolder("tritonode-grpc-");
const repository = join(folder, "model_repository");
const server = new StockServer();
let client: GrpcClient;

const loras = { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") };
const breakable = { ...tinyEngine, logits_processors: ["breaking_processor:BreakingProcessor"] };
const greedy = { temperature: 0, max_tokens: 8, ignore_eos: true };
const prompts = ["The most dangerous animal is", "The capital of France is", "The future of AI is"];

const cases = prompts.flatMap((prompt) =>
  [undefined, "lora_a" as const, "lora_b" as const].map((lora) => ({
    prompt,
    lora,
    adapter: lora === undefined ? null : loras[lora],
    max_tokens: 12,
  })),
);
let answers: Reference[];

/** The text of transformers and PEFT for a prompt on the base model or an adapter. */
function expected(prompt: string, lora?: string): string | undefined {
  return answers[cases.findIndex((each) => each.prompt === prompt && each.lora === lora)]?.text;
}

function write(
  name: string,
  model: object,
  parameters: Record<string, string> = {},
  group = "count: 1 kind: KIND_MODEL",
) {
  const lines = Object.entries(parameters).map(
    ([key, value]) => `parameters: { key: "${key}" value: { string_value: "${value}" } }\n`,
  );
  const config = `backend: "vllm"\ninstance_group [ { ${group} } ]\n${lines.join("")}`;
  writeRepository(repository, { model, loras, config }, name);
  // Classes that model.json names are looked for beside it.
  copyFileSync(join(root, "test/fixtures/breaking_processor.py"), join(repository, name, "1/breaking_processor.py"));
}

/** Loads a model for the tests of a block, and unloads it after them. */
function withModel(name: string): void {
  beforeAll(() =>
    client.load(name).catch((error) => {
      throw new Error(`${error.message}\n${server.log.slice(-4_000)}`);
    }),
  );
  afterAll(async () => {
    await client.unload(name).catch(() => {});
    await until(async () => !(await client.isReady(name).catch(() => false)), 30_000);
  });
}

const textOf = (responses: GrpcOutputs[]) => responses.map(({ text_output }) => text_output?.[0]).join("");

/** What a model's own process says about itself. */
async function info(model: string): Promise<{ pid: number; requests: object }> {
  return JSON.parse(textOf(await client.ask({ model, control: { op: "info" } })));
}

async function errorOf(answer: Promise<unknown>): Promise<string> {
  return answer.then(
    () => "no error",
    (error: Error) => error.message,
  );
}

beforeAll(async () => {
  write("plain", { ...breakable, enable_lora: false });
  write("lora", { ...tinyEngine, enable_lora: true }, { REPORT_CUSTOM_METRICS: "true" });
  write(
    "lora_text",
    { ...breakable, enable_lora: "true" },
    { REPORT_CUSTOM_METRICS: "false", ENABLE_VLLM_HEALTH_CHECK: "true" },
  );
  write(
    "no_lora_text",
    { ...breakable, enable_lora: "false", disable_log_stats: true },
    { REPORT_CUSTOM_METRICS: "true", ENABLE_VLLM_HEALTH_CHECK: "false" },
  );
  write("twice", { ...tinyEngine, enable_lora: true }, {}, "count: 2 kind: KIND_MODEL");
  write("unknown_argument", { ...tinyEngine, no_such_argument: 1 });
  write("unknown_model", { ...tinyEngine, model: "no/such/model" });
  mkdirSync(join(repository, "add/1"), { recursive: true });
  writeFileSync(
    join(repository, "add/config.pbtxt"),
    'backend: "python"\ninput [ { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] } ]\n' +
      'output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]\n' +
      "model_transaction_policy { decoupled: true }\ninstance_group [ { count: 1 kind: KIND_CPU } ]\n",
  );
  writeFileSync(
    join(repository, "add/1/model.py"),
    `import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
            sender = request.get_response_sender()
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)]), flags=1)
`,
  );
  mkdirSync(join(repository, "ensemble/1"), { recursive: true });
  writeFileSync(
    join(repository, "ensemble/config.pbtxt"),
    `platform: "ensemble"
model_transaction_policy { decoupled: true }
input [ { name: "text_input" data_type: TYPE_STRING dims: [ -1 ] } ]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ -1 ] } ]
ensemble_scheduling { step [ {
  model_name: "plain" model_version: -1
  input_map { key: "text_input" value: "text_input" }
  output_map { key: "text_output" value: "text_output" }
} ] }
`,
  );
  answers = reference(tinyEngine.model, cases);
  await server.start(folder, repository, "--model-control-mode=explicit", "--log-verbose=0");
  client = new GrpcClient(server.ports.grpc);
});
afterAll(async () => {
  client?.close();
  await server.stop();
});

describe("a model without adapters", () => {
  withModel("plain");

  const switches = [
    ["return_finish_reason", "finish_reason"],
    ["return_cumulative_logprob", "cumulative_logprob"],
    ["return_logprobs", "logprobs"],
    ["return_num_input_tokens", "num_input_tokens"],
    ["return_num_output_tokens", "num_output_tokens"],
  ] as const;
  const combinations = Array.from({ length: 1 << switches.length }, (_, bits) =>
    switches.filter((_, at) => bits & (1 << at)),
  );

  test.each([false, true])("every combination of the additional outputs, streaming: %s", async (stream) => {
    const sampling = { temperature: 0, max_tokens: 5, ignore_eos: true, logprobs: 2 };
    for (const asked of combinations) {
      const returns = asked.map(([name]) => name);
      const responses = await client.ask({ model: "plain", text: "Hello", stream, exclude: true, sampling, returns });
      expect(responses).toHaveLength(stream ? 5 : 1);
      const outputs = asked.map(([, name]) => name);
      for (const [at, response] of responses.entries()) {
        expect(new Set(Object.keys(response))).toEqual(new Set(["text_output", ...outputs]));
        const last = at === responses.length - 1;
        if (outputs.includes("finish_reason")) expect(response["finish_reason"]).toEqual([last ? "length" : "None"]);
        if (outputs.includes("cumulative_logprob")) {
          expect(response["cumulative_logprob"]).not.toEqual(responses[at - 1]?.["cumulative_logprob"]);
        }
        if (outputs.includes("num_input_tokens")) expect(Number(response["num_input_tokens"]?.[0])).toBeGreaterThan(0);
        if (outputs.includes("num_output_tokens")) expect(response["num_output_tokens"]).toEqual([stream ? 1 : 5]);
        if (!outputs.includes("logprobs")) continue;
        const positions = JSON.parse(response["logprobs"]?.[0] as string) as Record<
          string,
          { rank: number; logprob: number; decoded_token: string }
        >[];
        expect(positions).toHaveLength(stream ? 1 : 5);
        let text = "";
        for (const position of positions) {
          const entries = Object.values(position);
          expect(entries.length).toBeLessThanOrEqual(3);
          const best = entries.filter(({ rank }) => rank === 1);
          expect(best).toHaveLength(1);
          text += best[0]?.decoded_token;
        }
        expect(text).toBe(response["text_output"]?.[0]);
      }
    }
  });

  test("texts are those of Hugging Face transformers on the same weights", async () => {
    const sampling = { temperature: 0, max_tokens: 12 };
    const texts = await Promise.all(
      prompts.map(async (text) => textOf(await client.ask({ model: "plain", text, exclude: true, sampling }))),
    );
    expect(texts).toEqual(prompts.map((prompt) => expected(prompt)));
  });

  test("a guided choice is one of the choices, written as object or as JSON in JSON", async () => {
    const choice = ["Positive", "Negative"];
    for (const structured_outputs of [{ choice }, JSON.stringify({ choice })]) {
      const sampling = { temperature: 0, structured_outputs };
      const [response] = await client.ask({ model: "plain", text: "vLLM is wonderful!", exclude: true, sampling });
      expect(choice).toContain(response?.["text_output"]?.[0]);
    }
  });

  test("streaming: the default of 16 tokens as 16 deltas, for two prompts", async () => {
    const sampling = { temperature: 0, ignore_eos: true };
    for (const text of prompts.slice(0, 2)) {
      const streamed = await client.ask({ model: "plain", text, stream: true, sampling });
      expect(streamed).toHaveLength(16);
      const whole = await client.ask({ model: "plain", text, exclude: true, sampling });
      expect(textOf(streamed)).toBe(textOf(whole));
    }
  });

  test("streaming with exclude_input_in_output false is refused", async () => {
    expect(await errorOf(client.ask({ model: "plain", text: "Hello", stream: true, exclude: false }))).toContain(
      "When streaming, `exclude_input_in_output` = False is not allowed.",
    );
  });

  test("the prompt is in front of the text unless it is excluded", async () => {
    const ask = async (exclude?: boolean) =>
      textOf(
        await client.ask({
          model: "plain",
          text: "Hello",
          sampling: greedy,
          ...(exclude === undefined ? {} : { exclude }),
        }),
      );
    const bare = await ask(true);
    expect(await ask()).toBe(`Hello${bare}`);
    expect(await ask(false)).toBe(`Hello${bare}`);
  });

  test("sampling parameters as a tensor, or as the request's own", async () => {
    const tensor = await client.ask({ model: "plain", text: "Hello", sampling: greedy });
    const own = await client.ask({ model: "plain", text: "Hello", parameters: { ...greedy } });
    expect(textOf(own)).toBe(textOf(tensor));
  });

  test("beside a Python model, and in an ensemble, loaded and unloaded", async () => {
    const loaded = await info("plain");
    await client.load("add");
    await client.load("ensemble");
    expect(textOf(await client.ask({ model: "add", text: "as it is" }))).toBe("as it is");
    const [response] = await client.ask({ model: "ensemble", text: "Hello" });
    expect(response?.["text_output"]?.[0]).toMatch(/^Hello./);
    await client.unload("ensemble");
    await client.unload("add");
    expect(await errorOf(client.ask({ model: "add", text: "" }))).toMatch(/unknown model|not found|not ready/);
    // Triton loads a model again whose folder has changed. Nothing changes it, not even a class from beside model.json.
    expect((await info("plain")).pid).toBe(loaded.pid);
    expect(readdirSync(join(repository, "plain/1"))).not.toContain("__pycache__");
  });

  test("an engine argument or a model that does not exist fails the load by name", async () => {
    expect(await errorOf(client.load("unknown_argument"))).toContain("no_such_argument");
    expect(await errorOf(client.load("unknown_model"))).toContain("no/such/model");
    expect(await errorOf(client.load("not_in_the_repository"))).toContain("not_in_the_repository");
  });

  test("a cancelled request ends in vLLM, and both steps are in the log", async () => {
    const before = server.log.length;
    const sampling = { temperature: 0, max_tokens: 400, ignore_eos: true };
    const call = client.start({ model: "plain", text: "Hello", stream: true, sampling });
    const ended = expect(call.done).rejects.toMatchObject({ code: 1, details: expect.stringMatching(/cancel/i) });
    await until(() => call.received.length > 0);
    call.cancel();
    await ended;
    const requests = async () => (await info("plain")).requests;
    await expect.poll(requests, { timeout: 5_000 }).toEqual({ running: 0, waiting: 0 });
    await until(() => server.log.indexOf("[vllm] Successfully cancelled the request", before) > 0);
    const began = server.log.indexOf("[vllm] Cancelling the request", before);
    expect(began).toBeGreaterThan(0);
    expect(began).toBeLessThan(server.log.indexOf("[vllm] Successfully cancelled the request", before));
    expect(call.received.length).toBeLessThan(400);
  });

  test("an adapter is refused in the contract's words; requests without are served", () => expectNoLora("plain"));

  test("no metrics unless they are asked for", async () => {
    expect(await server.metrics()).not.toContain("vllm:");
  });

  test("without the health check a broken engine answers with its own error, and stays loaded", async () => {
    await expectBroken("plain");
    expect(await errorOf(client.ask({ model: "plain", text: "Hello" }))).toContain("the vLLM engine is dead");
    expect(await client.isReady("plain")).toBe(true);
  });
});

async function expectNoLora(model: string): Promise<void> {
  const sampling = { ...greedy, lora_name: "lora_a" };
  expect(await errorOf(client.ask({ model, text: "Hello", sampling }))).toBe("LoRA feature is not enabled.");
  expect(textOf(await client.ask({ model, text: "Hello", sampling: greedy }))).toMatch(/^Hello./);
}

async function expectBroken(model: string): Promise<void> {
  const fatal = { ...greedy, extra_args: { break_engine: true } };
  expect(await errorOf(client.ask({ model, text: "Hello", sampling: fatal }))).toContain("the test broke the engine");
}

describe.each(["lora", "lora_text"])("adapters, metrics and the health check: %s", (model) => {
  withModel(model);

  test("each adapter answers with its own text", async () => {
    // Together: base and adapters share a batch.
    const texts = await Promise.all(
      cases.map(async ({ prompt: text, lora }) => {
        const sampling = { temperature: 0, max_tokens: 12, ...(lora === undefined ? {} : { lora_name: lora }) };
        return textOf(await client.ask({ model, text, exclude: true, sampling }));
      }),
    );
    expect(texts).toEqual(cases.map(({ prompt, lora }) => expected(prompt, lora)));
  });

  test("an unknown adapter is refused in the contract's words", async () => {
    const sampling = { ...greedy, lora_name: "bactrian" };
    expect(await errorOf(client.ask({ model, text: "Hello", sampling }))).toBe(
      "LoRA bactrian is not supported, we currently support ['lora_a', 'lora_b']",
    );
  });

  test("metrics count exactly, or are absent", async () => {
    const value = async (name: string) => {
      const lines = (await server.metrics()).split("\n");
      const line = lines.find((each) => each.startsWith(`vllm:${name}{model="${model}",version="1"}`));
      return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ")));
    };
    if (model === "lora_text") {
      expect(await value("generation_tokens_total")).toBeUndefined();
      return;
    }
    // The backend reports on a thread of its own, this metric last.
    await expect.poll(() => value("request_params_n_count")).toBe(9);
    const before = await value("generation_tokens_total");
    const prompt = await value("prompt_tokens_total");
    const [answer] = await client.ask({ model, text: "Hello", sampling: greedy, returns: ["return_num_input_tokens"] });
    await expect.poll(() => value("request_params_n_count")).toBe(10);
    expect(await value("generation_tokens_total")).toBe(Number(before) + 8);
    expect(await value("prompt_tokens_total")).toBe(Number(prompt) + Number(answer?.["num_input_tokens"]?.[0]));
    for (const name of ["time_to_first_token_seconds", "e2e_request_latency_seconds", "request_prompt_tokens"]) {
      expect(await value(`${name}_count`)).toBe(10);
    }
  });

  if (model === "lora") return;

  test("with the health check a broken engine is unavailable, then unloaded", async () => {
    await expectBroken(model);
    expect(await errorOf(client.ask({ model, text: "Hello" }))).toBe(
      "Model is unavailable due to unhealthy vLLM engine",
    );
    await until(async () => !(await client.isReady(model).catch(() => false)), 30_000);
    expect(await errorOf(client.ask({ model, text: "Hello" }))).toMatch(
      /unknown model|not found|no available versions/,
    );
  });
});

describe("a model whose settings are texts: LoRA and the health check off, no statistics", () => {
  const model = "no_lora_text";
  withModel(model);

  test("an adapter is refused in the contract's words; requests without are served", () => expectNoLora(model));

  test("no metrics with disable_log_stats", async () => {
    expect(await server.metrics()).not.toContain(`model="${model}",version="1",le=`);
    expect(await server.metrics()).not.toContain(`vllm:prompt_tokens_total{model="${model}"`);
  });

  test("a broken engine answers with its own error, and stays loaded", async () => {
    await expectBroken(model);
    expect(await errorOf(client.ask({ model, text: "Hello" }))).toContain("the vLLM engine is dead");
    expect(await client.isReady(model)).toBe(true);
  });
});

describe("two instances", () => {
  withModel("twice");

  test("both serve, adapters included", async () => {
    const pids = new Set<number>();
    const ask = async (lora_name: string) =>
      textOf(await client.ask({ model: "twice", text: "Hello", sampling: { ...greedy, lora_name } }));
    const texts = new Set(await Promise.all(Array.from({ length: 6 }, () => ask("lora_a"))));
    expect(texts.size).toBe(1);
    for (let at = 0; at < 20 && pids.size < 2; at++) pids.add((await info("twice")).pid);
    expect(pids.size).toBe(2);
  });

  test("what would change one of them is refused, with what to do instead", async () => {
    const control = { op: "adapters.load", name: "late", path: loras.lora_a };
    const message = await errorOf(client.ask({ model: "twice", control }));
    expect(message).toContain("one of the model's 2 instances");
    expect(message).toContain("watch_multi_lora");
    const listed = JSON.parse(textOf(await client.ask({ model: "twice", control: { op: "adapters.list" } })));
    expect(listed).toHaveLength(2);
  });
});
