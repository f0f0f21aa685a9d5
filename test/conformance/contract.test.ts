import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { VllmModel } from "../../src";
import { ask, loadTiny, output, textOf } from "../support/models";

// What upstream's tests of Triton's vLLM backend assert (shared contract: triton-inference-server/vllm_backend, ci/).

const prompt = "The most dangerous animal is";
const greedy = { temperature: 0, max_tokens: 16, ignore_eos: true };
const switches = [
  ["return_finish_reason", "finish_reason"],
  ["return_cumulative_logprob", "cumulative_logprob"],
  ["return_logprobs", "logprobs"],
  ["return_num_input_tokens", "num_input_tokens"],
  ["return_num_output_tokens", "num_output_tokens"],
] as const;

let model: VllmModel;
beforeAll(async () => {
  model = await loadTiny();
});
afterAll(() => model.dispose());

describe("additional outputs", () => {
  const combinations = Array.from({ length: 32 }, (_, bits) => switches.filter((_, at) => bits & (1 << at)));

  test.each([true, false])("each combination of the five switches, stream %s", async (stream) => {
    for (const on of combinations) {
      const responses = await ask(model, {
        text: prompt,
        stream,
        sampling: { ...greedy, logprobs: 2 },
        returns: on.map(([name]) => name),
      });
      if (!stream) expect(responses).toHaveLength(1);
      for (const response of responses) {
        const expected = ["text_output", ...on.map(([, name]) => name)];
        expect(Object.keys(response.outputs).sort()).toEqual(expected.sort());
      }
    }
  });

  test("finish_reason is None until the last response, then the reason", async () => {
    const responses = await ask(model, {
      text: prompt,
      stream: true,
      sampling: greedy,
      returns: ["return_finish_reason"],
    });
    const reasons = responses.map((response) => output(response, "finish_reason")?.[0]);
    expect(reasons.pop()).toBe("length");
    expect(reasons.length).toBeGreaterThan(0);
    expect(new Set(reasons)).toEqual(new Set(["None"]));
  });

  test("the cumulative logprob falls with each response, with logprobs asked for or not", async () => {
    for (const logprobs of [undefined, 1]) {
      const responses = await ask(model, {
        text: prompt,
        stream: true,
        sampling: { ...greedy, logprobs },
        returns: ["return_cumulative_logprob", "return_logprobs"],
      });
      const sums = responses.map((response) => Number(output(response, "cumulative_logprob")?.[0]));
      for (const [at, sum] of sums.entries()) expect(sum).toBeLessThan(at === 0 ? 0 : (sums[at - 1] as number));
      const first = output(responses[0], "logprobs")?.[0];
      if (logprobs === undefined) expect(first).toBe("null");
      else expect(first).not.toBe("null");
    }
  });

  test("logprobs: at most k + 1 entries a token, exactly one of rank 1, the chosen ones make the text", async () => {
    const responses = await ask(model, {
      text: prompt,
      stream: true,
      sampling: { ...greedy, logprobs: 3 },
      returns: ["return_logprobs", "return_num_output_tokens"],
    });
    let text = "";
    for (const response of responses) {
      const positions = JSON.parse(output(response, "logprobs")?.[0] as string) as Record<
        string,
        { rank: number; decoded_token: string; logprob: number }
      >[];
      expect(positions).toHaveLength(Number(output(response, "num_output_tokens")?.[0]));
      for (const position of positions) {
        const entries = Object.values(position);
        expect(entries.length).toBeGreaterThan(0);
        expect(entries.length).toBeLessThanOrEqual(4);
        expect(entries.filter((entry) => entry.rank === 1)).toHaveLength(1);
        // Greedy: the chosen token is the likeliest.
        text += entries.find((entry) => entry.rank === 1)?.decoded_token;
      }
    }
    expect(text).toBe(textOf(responses));
  });

  test("token counts: the prompt's in each response, the output's as deltas", async () => {
    const responses = await ask(model, {
      text: prompt,
      stream: true,
      sampling: greedy,
      returns: ["return_num_input_tokens", "return_num_output_tokens"],
    });
    const inputs = new Set(responses.map((response) => output(response, "num_input_tokens")?.[0]));
    expect(inputs).toEqual(new Set([5]));
    const total = responses.reduce((sum, response) => sum + Number(output(response, "num_output_tokens")?.[0]), 0);
    expect(total).toBe(16);
  });
});

describe("streaming and the prompt in the output", () => {
  test("the default 16 tokens come as 16 deltas", async () => {
    for (const text of ["The first law of robotics is", "Once upon a time"]) {
      const responses = await ask(model, { text, stream: true, sampling: { temperature: 0, ignore_eos: true } });
      expect(responses).toHaveLength(16);
      const whole = await ask(model, { text, exclude: true, sampling: { temperature: 0, ignore_eos: true } });
      expect(textOf(responses)).toBe(textOf(whole));
    }
  });

  test("without streaming the prompt comes first unless it is excluded", async () => {
    const answer = textOf(await ask(model, { text: prompt, exclude: true, sampling: greedy }));
    expect(answer).not.toBe("");
    expect(textOf(await ask(model, { text: prompt, exclude: false, sampling: greedy }))).toBe(prompt + answer);
    expect(textOf(await ask(model, { text: prompt, sampling: greedy }))).toBe(prompt + answer);
  });

  test("streaming with an explicit false is an error, and the model goes on", async () => {
    await expect(ask(model, { text: prompt, stream: true, exclude: false, sampling: greedy })).rejects.toThrow(
      "When streaming, `exclude_input_in_output` = False is not allowed.",
    );
    expect(await ask(model, { text: prompt, stream: true, exclude: true, sampling: greedy })).not.toHaveLength(0);
  });
});

describe("sampling parameters", () => {
  test("as a tensor and as the request's own parameters", async () => {
    const tensor = textOf(await ask(model, { text: prompt, exclude: true, sampling: { ...greedy, max_tokens: 5 } }));
    const own = await ask(model, {
      text: prompt,
      exclude: true,
      parameters: { temperature: 0, max_tokens: 5, ignore_eos: true },
    });
    expect(textOf(own)).toBe(tensor);
    const lora = await ask(model, { text: prompt, exclude: true, parameters: { temperature: 0, lora_name: "lora_a" } });
    expect(textOf(lora)).not.toBe(tensor);
  });

  test("strings are read as the type they stand for", async () => {
    const count = async (sampling: object) => {
      const [response] = await ask(model, { text: prompt, sampling, returns: ["return_num_output_tokens"] });
      return Number(output(response, "num_output_tokens")?.[0]);
    };
    expect(await count({ temperature: "0.0", max_tokens: "7", ignore_eos: "true" })).toBe(7);
    // The tiny model's greedy text for this prompt has no end; stop it by its own first token to see "false" work.
    const [first] = await ask(model, {
      text: prompt,
      sampling: { ...greedy, logprobs: 0 },
      returns: ["return_logprobs"],
    });
    const [token] = Object.keys(JSON.parse(output(first, "logprobs")?.[0] as string)[0]);
    expect(await count({ ...greedy, stop_token_ids: [Number(token)] })).toBe(1);
  });

  test("max_tokens null generates to the end of the context", async () => {
    const [response] = await ask(model, {
      text: prompt,
      sampling: { temperature: 0, max_tokens: null, ignore_eos: true },
      returns: ["return_num_output_tokens", "return_finish_reason"],
    });
    expect(output(response, "num_output_tokens")).toEqual([512 - 5]);
    expect(output(response, "finish_reason")).toEqual(["length"]);
  });

  test.each([
    ["as an object", { choice: ["yes", "no"] }],
    ["as a JSON string, as upstream has it", JSON.stringify({ choice: ["yes", "no"] })],
  ])("structured outputs %s", async (_, structured_outputs) => {
    const responses = await ask(model, {
      text: prompt,
      exclude: true,
      sampling: { temperature: 0, structured_outputs },
    });
    expect(["yes", "no"]).toContain(textOf(responses));
  });

  test("n choices come in the order of their index, streamed and not", async () => {
    const sampling = { n: 3, temperature: 1, seed: 7, max_tokens: 12, ignore_eos: true };
    const [whole] = await ask(model, { text: prompt, exclude: true, sampling });
    const streamed = await ask(model, { text: prompt, stream: true, sampling });
    const texts = [0, 1, 2].map((index) =>
      streamed.map((response) => output(response, "text_output")?.[index]).join(""),
    );
    expect(texts).toEqual(output(whole, "text_output"));
    expect(new Set(texts).size).toBe(3);
  });

  test.each([
    [{ temprature: 0 }, "unknown sampling parameter 'temprature' (did you mean 'temperature'?)"],
    [{ max_tokens: "many" }, "sampling parameter 'max_tokens': expected a whole number, got 'many'"],
    [{ temperature: -1 }, "temperature must be non-negative, got -1"],
    [{ structured_outputs: { chioce: ["a"] } }, "unknown field 'chioce' (did you mean 'choice'?)"],
    ["{", "sampling_parameters is not valid JSON"],
    ["[]", "sampling_parameters must be a JSON object, not list"],
  ])("%j is refused with the parameter's name", async (sampling, message) => {
    const failure = await ask(model, { text: prompt, sampling }).catch((error) => error);
    expect(failure.message).toContain("Error generating stream: ");
    expect(failure.message).toContain(message);
    expect(failure.code).toBe("ERR_TRITON_INVALID_ARG");
  });
});

describe("the wordings that upstream's tests compare", () => {
  test("an unknown adapter", async () => {
    await expect(ask(model, { text: prompt, sampling: { ...greedy, lora_name: "nope" } })).rejects.toThrow(
      /^LoRA nope is not supported, we currently support \['lora_a', 'lora_b', 'lora_all'\]$/,
    );
  });

  test("a cancelled request, streamed and not", async () => {
    for (const stream of [true, false]) {
      const raw = model.server.infer({
        model: model.name,
        inputs: [
          { name: "text_input", datatype: "BYTES", data: [prompt] },
          { name: "stream", datatype: "BOOL", data: [stream] },
          { name: "sampling_parameters", datatype: "BYTES", data: [JSON.stringify({ ...greedy, max_tokens: null })] },
        ],
      });
      const ended = raw.finished.catch((error) => error);
      await expect.poll(async () => (await model.info()).requests.running).toBeGreaterThan(0);
      raw.cancel();
      expect((await ended).code).toBe("ERR_REQUEST_CANCELLED");
      await expect.poll(async () => (await model.info()).requests).toEqual({ running: 0, waiting: 0 });
    }
  });

  test("an embedding asked of a model that generates", async () => {
    await expect(ask(model, { text: "", embedding: JSON.stringify({ input: "hello" }) })).rejects.toThrow(
      /^Model vllm_model does not support 'embed' request$/,
    );
  });
});
