import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { z } from "zod";
import {
  AdapterNotFoundError,
  DeadlineExceededError,
  EngineDiedError,
  HttpStatusError,
  InvalidArgumentError,
  RequestCancelledError,
  StructuredOutputError,
  type VllmModel,
} from "../../src";
import { loadTiny } from "../support/models";
import { adapter, fixtures } from "../support/paths";
import { internetSockets } from "../support/sockets";

let model: VllmModel;
beforeAll(async () => {
  model = await loadTiny({}, { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") });
});
afterAll(() => model?.dispose());

const messages = [{ role: "user", content: "Say something." }];
const greedy = { temperature: 0, max_tokens: 8 };

function post(path: string, body: object, init: RequestInit = {}): Promise<Response> {
  return model.fetch(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...init,
  });
}

/** Resolves when vLLM works on nothing any more. */
async function idle(): Promise<void> {
  for (const end = Date.now() + 30_000; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 10))) {
    const { running, waiting } = (await model.info()).requests;
    if (running + waiting === 0) return;
  }
  throw new Error("vLLM still works on a request");
}

describe("fetch", () => {
  test("takes URLs of any host, relative ones, URL objects and Requests", async () => {
    const inputs = ["models", "/v1/models", "https://api.openai.com/v1/models", new URL("http://x.test/v1/models")];
    for (const input of [...inputs, new Request("http://y.test/v1/models?a=b")]) {
      const response = await model.fetch(input);
      expect(response.status).toBe(200);
      expect(response.headers.get("content-type")).toBe("application/json");
    }
    expect((await model.fetch("models")).url).toBe("http://localhost/v1/models");
    await expect(model.fetch("file:///etc/passwd")).rejects.toThrow(TypeError);
    await expect(model.fetch("models", { method: "GET", body: "no" })).rejects.toThrow(TypeError);
  });

  test("sends every kind of body", async () => {
    const json = JSON.stringify({ prompt: "Grüße 🙂" });
    const bytes = new TextEncoder().encode(json);
    const stream = () =>
      new ReadableStream({
        async start(controller) {
          for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
          controller.close();
        },
      });
    const form = new FormData();
    form.set("prompt", "x");
    const headers = { "content-type": "application/json" };
    const expected = await model.tokenize("Grüße 🙂");
    expect(await model.detokenize(expected.tokens)).toBe("Grüße 🙂");
    for (const body of [json, bytes, bytes.buffer, new Blob([bytes]), stream()]) {
      const response = await model.fetch("/tokenize", { method: "POST", headers, body } as RequestInit);
      expect(await response.json()).toMatchObject({ tokens: expected.tokens });
    }
    const request = new Request("http://x/tokenize", { method: "POST", headers, body: json });
    expect(await (await model.fetch(request)).json()).toMatchObject({ count: expected.count });
    // vLLM takes JSON only, and says so: the form arrived as one.
    const refused = await model.fetch("/tokenize", { method: "POST", body: form });
    expect(refused.status).toBe(400);
    expect(await refused.text()).toContain("Unsupported Media Type");
  });

  test("gives vLLM's own statuses and messages", async () => {
    const unknown = await post("chat/completions", { messages, model: "nobody" });
    expect(unknown.status).toBe(404);
    expect(await unknown.json()).toMatchObject({
      error: {
        type: "NotFoundError",
        param: "model",
        code: 404,
        message: expect.stringContaining("`nobody` does not exist"),
      },
    });
    expect((await post("chat/completions", { messages, temperature: -1 })).status).toBe(400);
    expect((await post("chat/completions", { messages: 1 })).status).toBe(400);
    expect((await post("chat/completions", {}, { body: "{" })).status).toBe(400);
    expect((await model.fetch("chat/completions")).status).toBe(405);
    expect((await model.fetch("/nowhere")).status).toBe(404);
    expect((await model.fetch("/health", { method: "HEAD" })).status).toBe(405);
    const empty = await model.fetch("/health");
    expect([empty.status, await empty.text()]).toEqual([200, ""]);
  });

  test("answers a preflight, and follows a redirect as it is told", async () => {
    const redirected = await model.fetch("models/");
    expect([redirected.status, redirected.redirected, redirected.url]).toEqual([
      200,
      true,
      "http://localhost/v1/models",
    ]);
    expect((await model.fetch("models/", { redirect: "manual" })).status).toBe(307);
    await expect(model.fetch("models/", { redirect: "error" })).rejects.toThrow(TypeError);
  });

  test("streams a body piece by piece, the same text as at once", async () => {
    const request = { prompt: "One two", max_tokens: 24, temperature: 0, ignore_eos: true };
    const whole = (await (await post("completions", request)).json()) as { choices: { text: string }[] };
    const response = await post("completions", { ...request, stream: true });
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    let pieces = 0;
    let text = "";
    const decoder = new TextDecoder();
    for await (const piece of response.body as ReadableStream<Uint8Array>) {
      pieces++;
      text += decoder.decode(piece, { stream: true });
    }
    // A busy machine has vLLM join tokens.
    expect(pieces).toBeGreaterThan(1);
    const events = text.split("\n\n").filter((event) => event.startsWith("data: {"));
    const deltas = events.map((event) => JSON.parse(event.slice(6)).choices[0].text as string);
    expect(deltas.length).toBeGreaterThan(2);
    expect(deltas.join("")).toBe(whole.choices[0]?.text);
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  });

  test("a reader that stops reading holds the answer back, and gets all of it later", async () => {
    // Log probabilities make a kilobyte of each token.
    const stream_options = { include_usage: true };
    const request = { prompt: "Go on", max_tokens: 320, ignore_eos: true, logprobs: 20, stream: true, stream_options };
    const response = await post("completions", request);
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    let text = Buffer.from((await reader.read()).value ?? []).toString();
    await idle();
    // vLLM is done; its application waits for room: the body is larger than the window of 256 KiB.
    for (let next = await reader.read(); !next.done; next = await reader.read()) {
      text += Buffer.from(next.value).toString();
    }
    expect(text.length).toBeGreaterThan(256 << 10);
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
    const events = text.split("\n\n").filter((event) => event.startsWith("data: {"));
    expect(JSON.parse(events.at(-1)?.slice(6) ?? "").usage).toMatchObject({ completion_tokens: 320 });
    // What came while there was no room, vLLM has joined.
    expect(events.length).toBeLessThan(320);
  });

  test("an aborted signal ends the request in vLLM: before, while waiting, while reading", async () => {
    const request = { prompt: "x", max_tokens: 480, ignore_eos: true };
    await expect(post("completions", request, { signal: AbortSignal.abort("early") })).rejects.toBe("early");

    const waiting = AbortSignal.timeout(50);
    const error = await post("completions", request, { signal: waiting }).catch((reason: unknown) => reason);
    expect(error).toBe(waiting.reason);
    await idle();

    const controller = new AbortController();
    const response = await post("completions", { ...request, stream: true }, { signal: controller.signal });
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    await reader.read();
    const reason = new Error("enough");
    controller.abort(reason);
    await expect(
      (async () => {
        while (!(await reader.read()).done);
      })(),
    ).rejects.toBe(reason);
    await idle();
  });

  test("an abort is never missed, at whatever moment it comes", async () => {
    const request = JSON.stringify({ prompt: "x", max_tokens: 480, ignore_eos: true });
    const reason = new Error("enough");
    for (let turns = 0; turns < 40; turns++) {
      const controller = new AbortController();
      // The body has been read so many turns of the microtask queue before the abort.
      const body = new ReadableStream({
        async pull(stream) {
          stream.enqueue(new TextEncoder().encode(request));
          stream.close();
          for (let turn = 0; turn < turns; turn++) await undefined;
          controller.abort(reason);
        },
      });
      await expect(
        post("completions", {}, { body, signal: controller.signal, duplex: "half" } as RequestInit),
      ).rejects.toBe(reason);
    }
    await idle();
  });

  test("hundreds of requests may share one signal", async () => {
    const warnings: Error[] = [];
    const keep = (warning: Error) => void warnings.push(warning);
    process.on("warning", keep);
    const options = { ...greedy, max_tokens: 2 };
    // A signal for each kind: what the first does to it (Node's own Request raises its limit) must not hide the others.
    for (const ask of [
      (signal: AbortSignal) => model.generate("Hello", { ...options, signal }),
      (signal: AbortSignal) => model.chat(messages, { ...options, signal }),
      (signal: AbortSignal) => model.fetch("models", { signal }),
    ]) {
      const { signal } = new AbortController();
      await Promise.all(Array.from({ length: 100 }, () => ask(signal)));
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
    process.off("warning", keep);
    expect(warnings).toEqual([]);
  });

  test("cancelling the body, and leaving its loop, end the request in vLLM", async () => {
    const request = { prompt: "x", max_tokens: 480, ignore_eos: true, stream: true };
    await (await post("completions", request)).body?.cancel();
    await idle();
    for await (const _ of (await post("completions", request)).body as ReadableStream<Uint8Array>) break;
    await idle();
  });

  test("runs many requests at once, each with its own answer", async () => {
    const ask = async (name: string, at: number) => {
      const body = { model: name, prompt: `Number ${at}`, ...greedy };
      return ((await (await post("completions", body)).json()) as { choices: { text: string }[] }).choices[0]?.text;
    };
    const names = ["vllm_model", "lora_a", "lora_b"];
    const alone: (string | undefined)[] = [];
    for (let at = 0; at < 6; at++) alone.push(await ask(names[at % 3] as string, at));
    const together = await Promise.all(alone.map((_, at) => ask(names[at % 3] as string, at)));
    expect(together).toEqual(alone);
    expect(await ask("lora_a", 0)).not.toBe(await ask("lora_b", 0));
  });
});

describe("conveniences", () => {
  test("chat, its stream, and the contract's tensors give the same text", async () => {
    const result = await model.chat(messages, { lora: "lora_a", ...greedy });
    expect(result).toMatchObject({ finishReason: "length", toolCalls: [], usage: { completionTokens: 8 } });
    const { tokens } = await model.tokenize(messages, { add_generation_prompt: true });
    const prompt = await model.detokenize(tokens);
    expect((await model.generate(prompt, { lora: "lora_a", ...greedy })).text).toBe(result.text);
    let text = "";
    let usage: unknown;
    for await (const chunk of model.chatStream(messages, { lora: "lora_a", ...greedy })) {
      text += chunk.text;
      usage = chunk.usage ?? usage;
    }
    expect({ text, usage }).toEqual({ text: result.text, usage: result.usage });
    const live = { lora: "lora_a", ...greedy, stream_options: { continuous_usage_stats: true } };
    const counts: (number | undefined)[] = [];
    for await (const chunk of model.chatStream(messages, live)) counts.push(chunk.usage?.completionTokens);
    // A busy machine has vLLM join tokens.
    expect(counts.length).toBeGreaterThan(1);
    expect(counts).toEqual([...counts].sort((a, b) => (a ?? 0) - (b ?? 0)));
    expect([counts.includes(undefined), counts.at(-1)]).toEqual([false, 8]);
  });

  test("a streamed answer is one object as well: final, disposed, left while a read waits", async () => {
    const whole = await model.chat(messages, { lora: "lora_a", ...greedy });
    const { response: _, ...expected } = whole;
    expect(await model.chatStream(messages, { lora: "lora_a", ...greedy }).final()).toEqual(expected);

    const endless = { max_tokens: 400, ignore_eos: true };
    const left = model.chatStream(messages, endless);
    await left.next();
    const waiting = left.next();
    await left.return();
    // Not the piece that it waited for: return() did not wait with it.
    expect(await waiting).toEqual({ done: true, value: undefined });
    {
      await using disposed = model.chatStream(messages, endless);
      await disposed.next();
    }
    const cancelled = model.chatStream(messages, endless);
    await cancelled.next();
    const read = cancelled.next();
    cancelled.cancel();
    await expect(read).rejects.toThrow(RequestCancelledError);
    await expect(model.chatStream(messages, { deadline: 30, ...endless }).final()).rejects.toThrow(
      DeadlineExceededError,
    );
    await idle();
  });

  test("limits may be infinite, and are refused where no timer can count them", async () => {
    const options = { ...greedy, deadline: Number.POSITIVE_INFINITY };
    expect((await model.chat(messages, options)).usage.completionTokens).toBe(8);
    expect((await model.generate("Hello", options)).text).not.toBe("");
    for (const deadline of [2 ** 31, 2 ** 40]) {
      await expect(model.chat(messages, { deadline })).rejects.toThrow("deadline must be");
      await expect(model.generate("Hello", { deadline })).rejects.toThrow("deadline must be");
    }
  });

  test("fields that the types do not know go through `extra`", async () => {
    const result = await model.chat(messages, { ...greedy, extra: { return_token_ids: true } });
    expect(result.response).toMatchObject({ choices: [{ token_ids: expect.any(Array) }] });
    await expect(model.chat(messages, { extra: { top_p: 7 } })).rejects.toThrow(/top_p/);
    await expect(model.generate("Hello", { extra: { temprature: 0 } })).rejects.toThrow("'temprature'");
    await expect(model.generate("Hello", { max_tokens: 2, extra: { max_tokens: 3 } })).rejects.toThrow("'max_tokens'");
  });

  test("structured answers: typed by a zod schema, plain by a JSON schema", async () => {
    const schema = z.object({ city: z.enum(["Paris", "Berlin"]), stars: z.number().int().min(1).max(5) });
    const options = { temperature: 0, max_tokens: 100, structured: schema };
    const { object } = await model.chat(messages, options);
    const city: "Paris" | "Berlin" = object.city;
    expect(["Paris", "Berlin"]).toContain(city);
    const plain = await model.chat(messages, { ...options, structured: { enum: ["yes", "no"] } });
    expect(["yes", "no"]).toContain(plain.object);
    await expect(model.chat(messages, { ...options, max_tokens: 2 })).rejects.toThrow(StructuredOutputError);
  });

  test("errors carry names", async () => {
    await expect(model.chat(messages, { lora: "lora_x" })).rejects.toMatchObject({
      constructor: AdapterNotFoundError,
      available: ["lora_a", "lora_b"],
    });
    await expect(model.chat([])).rejects.toThrow(InvalidArgumentError);
    await expect(model.chat(messages, { top_p: 7 })).rejects.toThrow(/^top_p must be in \(0, 1\], got 7.0$/);
    await expect(model.chat(messages, { n: "two" as unknown as number })).rejects.toMatchObject({
      message: expect.stringMatching(/^n must be a whole number, got 'two'$/),
      cause: expect.objectContaining({ message: expect.stringContaining("int_parsing") }),
    });
    await expect(model.chat([{ role: "user", content: [{ type: "image", image: "QUJD" }] }])).rejects.toThrow(
      "the model has no vision",
    );
    await expect(model.embed("x")).rejects.toThrow(HttpStatusError);
    const long = { max_tokens: 450, ignore_eos: true };
    await expect(model.chat(messages, { ...long, deadline: 30 })).rejects.toThrow(DeadlineExceededError);
    await expect(model.chat(messages, { ...long, signal: AbortSignal.timeout(30) })).rejects.toThrow(
      RequestCancelledError,
    );
    await idle();
  });
});

describe("adapters", () => {
  const list = async () => {
    const { data } = (await (await model.fetch("models")).json()) as { data: { id: string; parent: string | null }[] };
    return data.map((each) => each.id);
  };

  test("are models, in whichever way they were loaded", async () => {
    const base = [fixtures.models.tiny, "vllm_model"];
    expect(await list()).toEqual([...base, "lora_a", "lora_b"]);
    await model.adapters.load("late", adapter("lora_all"));
    expect(await list()).toContain("late");
    const late = async () => (await model.chat(messages, { lora: "late", ...greedy })).text;
    const before = await late();
    await model.adapters.replace("late", adapter("lora_b"));
    expect(await late()).toBe((await model.chat(messages, { lora: "lora_b", ...greedy })).text);
    await model.adapters.unload("late");
    expect(await list()).not.toContain("late");
    expect((await post("chat/completions", { messages, model: "late" })).status).toBe(404);

    const loaded = await post("load_lora_adapter", { lora_name: "late", lora_path: adapter("lora_all") });
    expect([loaded.status, await loaded.text()]).toEqual([200, "Success: LoRA adapter 'late' added successfully."]);
    expect(await late()).toBe(before);
    expect((await model.adapters.get("late")).served).toBe(1);
    const unloaded = await post("unload_lora_adapter", { lora_name: "late" });
    expect(unloaded.status).toBe(200);
    await expect(model.adapters.get("late")).rejects.toThrow(AdapterNotFoundError);
  });

  test("a bad one is refused before the engine sees it", async () => {
    const load = async (name: string, path: string) => {
      const response = await post("load_lora_adapter", { lora_name: name, lora_path: path });
      return [response.status, ((await response.json()) as { error: { message: string } }).error.message] as const;
    };
    expect(await load("gone", "/no/such/folder")).toEqual([404, expect.stringContaining("No adapter found")]);
    expect(await load("lora_a", adapter("lora_a"))).toEqual([400, expect.stringContaining("has already been loaded")]);
    for (const name of ["empty", "bad_rank", "not_finite", "pickle_only", "misshapen_tensor", "truncated"]) {
      const [status, message] = await load(`broken-${name}`, fixtures.broken[name]?.path ?? "");
      expect([status, message]).toEqual([400, expect.stringContaining(`adapter 'broken-${name}'`)]);
    }
    expect((await post("unload_lora_adapter", { lora_name: "nobody" })).status).toBe(404);
    expect(await list()).toHaveLength(4);
    expect((await model.chat(messages, { lora: "lora_a", ...greedy })).text).not.toBe("");
  });

  test("requests over HTTP are counted on them", async () => {
    const before = await model.adapters.get("lora_b");
    await model.chat(messages, { lora: "lora_b", ...greedy });
    await post("completions", { model: "lora_b", prompt: "x", n: 2, ...greedy, temperature: 1, ignore_eos: true });
    for await (const _ of model.chatStream(messages, { lora: "lora_b", max_tokens: 400, ignore_eos: true })) break;
    await idle();
    const after = await model.adapters.get("lora_b");
    expect(after.served - before.served).toBe(2);
    expect(after.failed - before.failed).toBe(1);
    expect(after.running).toBe(0);
    expect(after.tokens - before.tokens).toBeGreaterThanOrEqual(8 + 16);
  });

  test("a version that is replaced while it answers finishes its answer", async () => {
    await model.adapters.load("swap", adapter("lora_a"));
    const request = { model: "swap", prompt: "Tell", max_tokens: 64, temperature: 0, ignore_eos: true };
    const expected = await (await post("completions", request)).json();
    const running = post("completions", request);
    await new Promise((resolve) => setTimeout(resolve, 20));
    await model.adapters.replace("swap", adapter("lora_all"));
    const text = (answer: unknown) => (answer as { choices: { text: string }[] }).choices[0]?.text;
    expect(text(await (await running).json())).toBe(text(expected));
    expect(text(await (await post("completions", request)).json())).not.toBe(text(expected));
    await model.adapters.unload("swap");
  });
});

test("dispose({ drain }) waits for an answer that is larger than its window, while it is read", async () => {
  // The same files under the same name: it shares the engine.
  const second = await loadTiny({}, { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") });
  const body = JSON.stringify({ prompt: "Go on", max_tokens: 320, ignore_eos: true, logprobs: 20, stream: true });
  const headers = { "content-type": "application/json" };
  const response = await second.fetch("completions", { method: "POST", headers, body });
  await idle();
  const disposed = second.dispose({ drain: true });
  await expect(second.fetch("models")).rejects.toThrow("fetch failed");
  const text = await response.text();
  expect(text.length).toBeGreaterThan(256 << 10);
  expect(text.endsWith("data: [DONE]\n\n")).toBe(true);
  await disposed;
  expect((await model.chat(messages, greedy)).text).not.toBe("");
});

test("dispose({ drain }) with a deadline does not wait for an answer that nobody reads", async () => {
  const second = await loadTiny({}, { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") });
  await expect(second.dispose({ drain: true, deadline: -1 })).rejects.toThrow("deadline must be");
  const body = JSON.stringify({ prompt: "Go on", max_tokens: 320, ignore_eos: true, logprobs: 20, stream: true });
  const headers = { "content-type": "application/json" };
  const response = await second.fetch("completions", { method: "POST", headers, body });
  await second.dispose({ drain: true, deadline: 100 });
  await expect(response.text()).rejects.toMatchObject({ cause: { code: "ERR_REQUEST_CANCELLED" } });
  await idle();
  expect((await model.chat(messages, greedy)).text).not.toBe("");
});

test("nothing of it is on a network: the process tree holds no internet socket", () => {
  expect(internetSockets()).toEqual([]);
});

// Last: it ends the engine.
test("a dead engine rejects what runs and what comes, with the reason in cause", async () => {
  const request = { prompt: "x", max_tokens: 480, ignore_eos: true };
  const { pid } = await model.info();
  const waiting = post("completions", request).catch((error: unknown) => error);
  const streamed = await post("completions", { ...request, stream: true });
  const reader = (streamed.body as ReadableStream<Uint8Array>).getReader();
  await reader.read();
  process.kill(pid, "SIGKILL");
  const reading = (async () => {
    while (!(await reader.read()).done);
  })();
  await expect(reading).rejects.toMatchObject({ constructor: TypeError, cause: expect.any(EngineDiedError) });
  const error = await waiting;
  expect(error).toBeInstanceOf(TypeError);
  expect((error as TypeError).message).toBe("fetch failed");
  expect((error as TypeError).cause).toBeInstanceOf(EngineDiedError);
  await expect(model.fetch("models")).rejects.toThrow("fetch failed");
  await expect(model.chat(messages)).rejects.toThrow(EngineDiedError);
});
