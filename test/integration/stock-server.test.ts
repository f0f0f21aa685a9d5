import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, mkdirSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { findRuntime, VllmModel } from "../../src";
import { output, temporaryFolder, tinyEngine, writeRepository } from "../support/models";
import { adapter, root } from "../support/paths";

// The way to a cluster: the same repository and the same backend, served by the stock `tritonserver` of the same wheel.
// The steps are those of docs/stock-tritonserver.md. This test listens on loopback; the package never does.

const folder = temporaryFolder("tritonode-stock-");
const repository = writeRepository(join(folder, "model_repository"), {
  model: { ...tinyEngine, enable_lora: "true" },
  loras: { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") },
});
let server: ChildProcess;
let url: string;
let log = "";

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

beforeAll(async () => {
  const runtime = await findRuntime({ device: "cpu" });
  const { triton } = runtime;
  const backends = join(folder, "backends");
  mkdirSync(join(backends, "python"), { recursive: true });
  for (const name of readdirSync(triton.pythonBackend)) {
    if (/\.(so|py)$/.test(name)) copyFileSync(join(triton.pythonBackend, name), join(backends, "python", name));
  }
  const stub = join(backends, "python/triton_python_backend_stub");
  copyFileSync(triton.stub, stub);
  chmodSync(stub, 0o755);
  cpSync(join(root, "backends/vllm"), join(backends, "vllm"), { recursive: true });
  const port = await freePort();
  url = `http://127.0.0.1:${port}/v2/models/vllm_model`;
  server = spawn(
    triton.server as string,
    [
      `--model-repository=${repository}`,
      `--backend-directory=${backends}`,
      `--http-port=${port}`,
      "--http-address=127.0.0.1",
      "--allow-grpc=false",
      "--allow-metrics=false",
    ],
    {
      env: {
        ...process.env,
        PATH: `${join(runtime.python, "..")}:${process.env["PATH"]}`,
        LD_LIBRARY_PATH: [runtime.libpythonDirectory, triton.dependencyDirectory].join(":"),
        TRITONODE_PUNICA_LIBRARY: join(root, `prebuilds/linux-${process.arch}/libtritonode_punica.so`),
      },
    },
  );
  for (const stream of [server.stdout, server.stderr]) {
    stream?.setEncoding("utf8").on("data", (text: string) => {
      log += text;
    });
  }
  await vi.waitFor(
    async () => {
      expect(server.exitCode, log.slice(-3000)).toBeNull();
      expect((await fetch(`${url}/ready`).catch(() => undefined))?.status).toBe(200);
    },
    { timeout: 120_000, interval: 250 },
  );
});

afterAll(async () => {
  server.kill("SIGTERM");
  await new Promise((resolve) => (server.exitCode === null ? server.once("exit", resolve) : resolve(undefined)));
});

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
