import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { VllmModel } from "../../src";
import { temporaryFolder } from "../support/folders";
import { output, tinyEngine, writeRepository } from "../support/models";
import { adapter } from "../support/paths";
import { StockServer } from "../support/stock";

// The way to a cluster: the same repository and the same backend, served by the stock `tritonserver` of the same wheel.
// What its gRPC clients see is in test/conformance/grpc.test.ts.

const folder = temporaryFolder("tritonode-stock-");
const repository = writeRepository(join(folder, "model_repository"), {
  model: { ...tinyEngine, enable_lora: "true" },
  loras: { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") },
});
const server = new StockServer();
let url: string;

beforeAll(async () => {
  await server.start(folder, repository);
  url = `http://127.0.0.1:${server.ports.http}/v2/models/vllm_model`;
});
afterAll(() => server.stop());

const requests = [
  { text_input: "Hello, my name is", sampling_parameters: { temperature: 0, max_tokens: 12 } },
  { text_input: "Hello, my name is", sampling_parameters: { temperature: 0, max_tokens: 12, lora_name: "lora_a" } },
  { text_input: "A long road", sampling_parameters: { temperature: "0", max_tokens: "12", lora_name: "lora_b" } },
  { text_input: "A", sampling_parameters: { lora_name: "nope" } },
  { text_input: "A", sampling_parameters: { temprature: 0 } },
];

test("the stock tritonserver answers as the embedded one does, errors included", async () => {
  const stock: string[] = [];
  for (const { text_input, sampling_parameters } of requests) {
    const response = await fetch(`${url}/generate`, {
      method: "POST",
      body: JSON.stringify({ text_input, sampling_parameters: JSON.stringify(sampling_parameters) }),
    });
    const body = (await response.json()) as { text_output?: string; error?: string };
    stock.push(body.text_output ?? `error: ${body.error}`);
  }
  await using model = await VllmModel.load({ modelRepository: repository });
  const embedded: string[] = [];
  for (const { text_input, sampling_parameters } of requests) {
    const answer = model.server.infer({
      model: model.name,
      inputs: [
        { name: "text_input", datatype: "BYTES", data: [text_input] },
        { name: "sampling_parameters", datatype: "BYTES", data: [JSON.stringify(sampling_parameters)] },
      ],
    });
    embedded.push(
      await answer.response().then(
        (response) => String(output(response, "text_output")?.[0]),
        (error: Error) => `error: ${error.message}`,
      ),
    );
  }
  expect(stock).toEqual(embedded);
  expect(stock[0]).toMatch(/^Hello, my name is/);
  expect(stock[1]).not.toBe(stock[0]);
  expect(stock[3]).toMatch(/^error: LoRA nope is not supported/);
});

test("it streams", async () => {
  const response = await fetch(`${url}/generate_stream`, {
    method: "POST",
    body: JSON.stringify({
      text_input: "Hello",
      stream: true,
      sampling_parameters: '{"temperature": 0, "max_tokens": 6}',
    }),
  });
  const events = (await response.text()).split("\n\n").filter((event) => event.startsWith("data: "));
  expect(events.length).toBeGreaterThan(1);
  expect(events.every((event) => JSON.parse(event.slice(6)).text_output !== undefined)).toBe(true);
});
