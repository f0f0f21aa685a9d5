import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { type GenerateOptions, TritonodeError, VllmModel } from "../../src";
import { nearest } from "../../src/common/nearest";
import { fromLoadFailure, fromRequestFailure } from "../../src/model/failure";
import { parseProgress } from "../../src/model/load";
import { prepareRequest } from "../../src/model/request";
import { toRestartOptions } from "../../src/model/restart";
import { mergeResponses, ResponseReader } from "../../src/model/results";
import { logTo } from "../../src/server/logger";
import { toNativeRequest } from "../../src/server/request";
import { fromNative } from "../../src/transport/failure";
import { toNativeTensor } from "../../src/transport/tensors";
import { temporaryFolder } from "../support/folders";
import { writeRepository } from "../support/models";

// Any JavaScript value for any option: a typed error or a result, never anything else. `TRITONODE_FUZZ=50 npm test -- \
// test/unit/properties.test.ts` does fifty times as many runs.

const times = Number(process.env["TRITONODE_FUZZ"] ?? 1);
const numRuns = 2_000 * times;
let executions = 0;
afterAll(() => console.log(`${executions} executions`));

/** Whatever a caller without types may pass, hostile objects included. */
const anything = fc.oneof(
  fc.anything({ withBigInt: true, withDate: true, withMap: true, withNullPrototype: true, withTypedArray: true }),
  fc.constantFrom<unknown>(
    Number.NaN,
    Number.POSITIVE_INFINITY,
    -0,
    "\ud800",
    "\0",
    Symbol("symbol"),
    () => 1,
    new Proxy({}, {}),
    Object.create(null),
    AbortSignal.abort(),
    new Uint8Array(new SharedArrayBuffer(4)),
  ),
);
const text = fc.string({ unit: "binary", maxLength: 40 });

/** Runs it; what it throws must be one of ours with a code and a message. */
function typed(run: () => unknown): void {
  executions++;
  try {
    run();
  } catch (error) {
    if (!(error instanceof TritonodeError)) throw error;
    expect(error.code).toMatch(/^ERR_/);
    expect(error.message).not.toBe("");
  }
}

function check<T>(arbitrary: fc.Arbitrary<T>, run: (value: T) => unknown): void {
  fc.assert(
    fc.property(arbitrary, (value) => typed(() => run(value))),
    { numRuns },
  );
}

const optionNames = fc.constantFrom(
  "lora",
  "signal",
  "deadline",
  "priority",
  "requestId",
  "images",
  "max_tokens",
  "temperature",
  "stop",
  "logprobs",
  "structured_outputs",
  "__proto__",
  "toJSON",
);
const someOptions = fc.oneof(anything, fc.dictionary(optionNames, anything, { maxKeys: 5 }));

describe("arguments", () => {
  test("a prompt and its options", () => {
    check(fc.tuple(fc.oneof(text, anything), someOptions, fc.boolean()), ([prompt, options, stream]) => {
      const { inputs, outputs, parameters } = prepareRequest(prompt as string, options as GenerateOptions, stream);
      expect(outputs).toContain("text_output");
      expect(inputs[0]?.data).toEqual([prompt]);
      const request = JSON.parse(parameters["tritonode_request"] as string) as Record<string, unknown>;
      expect(request["stream"]).toBe(stream);
      expect(typeof JSON.parse(request["sampling_parameters"] as string)).toBe("object");
    });
  });

  test("restart", () => {
    const names = fc.constantFrom("policy", "maxAttempts", "delay", "maxDelay", "resetAfter", "other");
    const values = fc.oneof(anything, fc.constantFrom("never", "on-failure", 3, 0));
    check(fc.oneof(anything, fc.dictionary(names, values)), (value) => {
      const { policy, maxAttempts } = toRestartOptions(value);
      expect(["never", "on-failure"]).toContain(policy);
      expect(maxAttempts).toBeGreaterThanOrEqual(0);
    });
  });

  test("a tensor", () => {
    const tensor = fc.record(
      {
        name: fc.oneof(text, anything),
        datatype: fc.oneof(fc.constantFrom("BYTES", "BOOL", "INT64", "UINT8", "FP16", "FP32", "BF16"), anything),
        shape: fc.oneof(fc.array(fc.oneof(fc.integer({ min: -2, max: 4 }), anything), { maxLength: 4 }), anything),
        data: fc.oneof(fc.array(fc.oneof(fc.integer(), text, anything), { maxLength: 6 }), anything),
      },
      { requiredKeys: [] },
    );
    check(fc.oneof(tensor, anything), (value) => {
      const native = toNativeTensor(value as never);
      // -0 is a dimension too, and Object.is tells it from 0.
      const product = native.shape.reduce((total, dimension) => total * dimension, 1) + 0;
      expect(product).toBe((native.data as ArrayLike<unknown>).length);
    });
  });

  test("an inference request", () => {
    const request = fc.record(
      {
        model: fc.oneof(text, anything),
        version: anything,
        inputs: fc.oneof(fc.array(anything, { maxLength: 3 }), anything),
        outputs: fc.oneof(fc.array(text, { maxLength: 3 }), fc.constant(undefined)),
        parameters: fc.oneof(fc.dictionary(text, anything), fc.constant(undefined)),
        priority: anything,
        deadline: anything,
        signal: anything,
        maxQueuedResponses: anything,
      },
      { requiredKeys: [] },
    );
    check(request, (value) => toNativeRequest(value as never, "id"));
  });

  // Without a runtime nothing starts: options that are all good end in ERR_RUNTIME_MISSING, any other in an error that
  // names the option.
  const repository = writeRepository(temporaryFolder(), { model: { model: "/weights" } });
  const good: Record<string, fc.Arbitrary<unknown>> = {
    runtime: fc.constantFrom("/nowhere", "./nowhere"),
    device: fc.constantFrom("cpu", "cuda"),
    logger: fc.constant(console),
    onProgress: fc.constant(() => {}),
    onRestart: fc.constant(() => {}),
    timeout: fc.constantFrom(1, 2 ** 31 - 1, Number.POSITIVE_INFINITY),
    signal: fc.constant(new AbortController().signal),
    restart: fc.constantFrom("never", "on-failure", { policy: "never", delay: 0 }),
    environment: fc.constantFrom({}, { OMP_NUM_THREADS: "1" }),
    model: fc.constant("vllm_model"),
    modelRepository: fc.constant(repository),
  };
  const bad: Record<string, fc.Arbitrary<unknown>> = {
    timeout: fc.constantFrom(2 ** 31, 2 ** 40, -1, 0, "5"),
    environment: fc.constantFrom({ "A-B": "x" }, { A: 1 }, { A: "\0" }, ["A"]),
    logger: fc.constantFrom({}, { debug() {}, info() {}, warn() {} }),
    restart: fc.constantFrom("always", { policy: "never", other: 1 }, { policy: "never", delay: -1 }),
    model: fc.constantFrom("another", ""),
    other: anything,
  };
  test.each([...Object.keys(good), "engine", "loras", "other"])(
    "the option %s of load: good ones are taken, others refused by name before anything starts",
    async (name) => {
      const outcomes = { taken: 0, refused: 0 };
      const others = Object.fromEntries(Object.entries(good).filter(([other]) => other !== name));
      const rest = fc.record(others, { requiredKeys: ["modelRepository", "runtime"].filter((key) => key !== name) });
      // Left out, the usual runtime would be found.
      const defined = anything.filter((value) => name !== "runtime" || value !== undefined);
      const odd = bad[name] === undefined ? defined : fc.oneof(defined, bad[name]);
      const values = good[name] === undefined ? odd : fc.oneof(good[name], odd);
      await fc.assert(
        fc.asyncProperty(rest, values, async (options, value) => {
          executions++;
          const error = await VllmModel.load({ runtime: "/nowhere", ...options, [name]: value } as never).then(
            () => undefined,
            (thrown: unknown) => thrown,
          );
          expect(error).toBeInstanceOf(TritonodeError);
          const { code, message } = error as TritonodeError;
          if (code === "ERR_RUNTIME_MISSING" || code === "ERR_REQUEST_CANCELLED") {
            outcomes.taken++;
            return;
          }
          expect(code).toBe("ERR_INVALID_ARGUMENT");
          expect(message).toMatch(new RegExp(`\\b${name === "model" || name === "modelRepository" ? "model" : name}`));
          outcomes.refused++;
        }),
        { numRuns: Math.min(Math.ceil(numRuns / 10), 400) },
      );
      expect(outcomes.refused).toBeGreaterThan(0);
      if (good[name] !== undefined) expect(outcomes.taken).toBeGreaterThan(0);
    },
  );
});

describe("what comes back", () => {
  test("an error of the addon, of a request, of a load", () => {
    const codes = fc.constantFrom("NOT_FOUND", "INVALID_ARG", "INTERNAL", "CANCELLED", "SYSTEM", "STATE", "IN_USE", "");
    const messages = fc.oneof(
      text,
      fc.tuple(text, text).map(([a, b]) => `LoRA ${a} is not supported, we currently support [${b}]`),
      text.map((a) => `Error generating stream: ${a}`),
      text.map((a) => `Internal: ValueError: ${a}\n\nAt:\n  file.py`),
    );
    check(fc.tuple(codes, messages, anything), ([code, message, other]) => {
      const native = fromNative(Object.assign(new Error(message), { code }));
      expect(native).toBeInstanceOf(Error);
      expect(fromRequestFailure(native)).toBeInstanceOf(Error);
      expect(fromLoadFailure("model", native)).toBeInstanceOf(Error);
      expect(fromNative(other)).toBeInstanceOf(Error);
    });
  });

  test("a log line", () => {
    const lines: string[] = [];
    const keep = (line: string) => void lines.push(line);
    const logger = { debug: keep, info: keep, warn: keep, error: keep };
    check(
      fc.oneof(
        text,
        text.map((a) => `I1124 21:52:01.123456 4711 server.cc:604] ${a}`),
      ),
      (line) => {
        lines.length = 0;
        logTo(logger, line);
        expect(lines).toHaveLength(line === "" ? 0 : 1);
      },
    );
    check(
      fc.oneof(
        text,
        text.map((a) => `@tritonode ${a}`),
      ),
      (line) => parseProgress(line),
    );
  });

  test("nearest name", () => {
    check(fc.tuple(text, fc.array(text, { maxLength: 8 })), ([name, names]) => {
      const found = nearest(name, names);
      if (found !== undefined) expect(names).toContain(found);
    });
  });

  test("merging waiting responses loses no text and no token, however they are grouped", () => {
    const delta = fc.record({ text: text, tokens: fc.integer({ min: 1, max: 9 }), logprobs: fc.boolean() });
    const response = (deltas: { text: string; tokens: number; logprobs: boolean }[], final: boolean) => ({
      model: "m",
      version: 1,
      id: "1",
      parameters: {},
      final,
      outputs: {
        text_output: { name: "text_output", datatype: "BYTES" as const, shape: [1], data: deltas.map((d) => d.text) },
        finish_reason: {
          name: "finish_reason",
          datatype: "BYTES" as const,
          shape: [1],
          data: deltas.map(() => (final ? "stop" : "None")),
        },
        num_output_tokens: {
          name: "num_output_tokens",
          datatype: "UINT32" as const,
          shape: [1],
          data: deltas.map((d) => d.tokens),
        },
        logprobs: {
          name: "logprobs",
          datatype: "BYTES" as const,
          shape: [1],
          data: deltas.map((d) => (d.logprobs ? '[{"1":{"logprob":-1,"rank":1,"decoded_token":"a"}}]' : "null")),
        },
      },
    });
    check(
      fc.tuple(fc.array(delta, { minLength: 1, maxLength: 12 }), fc.array(fc.boolean(), { maxLength: 12 })),
      ([deltas, joins]) => {
        const queue: ReturnType<typeof response>[] = [];
        for (const [at, each] of deltas.entries()) {
          const next = response([each], at === deltas.length - 1);
          const last = queue.at(-1);
          const merged = last !== undefined && joins[at] ? mergeResponses(last, next) : undefined;
          if (merged === undefined) queue.push(next);
          else queue[queue.length - 1] = merged as typeof next;
        }
        const reader = new ResponseReader();
        const chunks = queue.flatMap((each) => reader.chunks(each));
        expect(chunks.map((chunk) => chunk.text).join("")).toBe(deltas.map((each) => each.text).join(""));
        expect(reader.usage.completionTokens).toBe(deltas.reduce((sum, each) => sum + each.tokens, 0));
        expect(chunks.filter((chunk) => chunk.finishReason !== null)).toHaveLength(1);
        const parsed = chunks.reduce((sum, chunk) => sum + (chunk.logprobs?.length ?? 0), 0);
        expect(parsed).toBe(deltas.filter((each) => each.logprobs).length);
      },
    );
  });
});
