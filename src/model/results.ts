import { TritonodeError } from "../errors";
import type { InferenceResponse } from "../transport/channel";
import type { DeltaEntry } from "../transport/deltas";
import { type Tensor, tensor } from "../transport/tensors";

/** Why a choice ended, as vLLM reports it; "unknown" with a backend that does not report it (NVIDIA's before 24.12). */
export type FinishReason = "stop" | "length" | "abort" | "error" | (string & {});

/** One candidate token at a position. */
export interface TokenLogprob {
  /** The token's number in the vocabulary. */
  readonly tokenId: number;
  /** The token's text. */
  readonly token: string;
  /** Natural logarithm of its probability. */
  readonly logprob: number;
  /** 1 for the most likely token. */
  readonly rank: number;
}

/** Numbers of tokens in the prompt and in the answer. */
export interface Usage {
  /** Tokens of the prompt, including those of the template. */
  readonly promptTokens: number;
  /** Tokens generated, over all choices. */
  readonly completionTokens: number;
  /** The sum of both. */
  readonly totalTokens: number;
}

/** One of a request's `n` answers. */
export interface Choice {
  /** 0 to `n - 1`. */
  readonly index: number;
  /** The generated text, without the prompt. */
  readonly text: string;
  /** Why it ended: `"stop"` at a stop or end-of-text token, `"length"` at `max_tokens` or the end of the context. */
  readonly finishReason: FinishReason;
  /** Tokens generated for this choice. */
  readonly completionTokens: number;
  /** For each position the chosen token, then the most likely ones; present if `logprobs` was requested. */
  readonly logprobs?: readonly (readonly TokenLogprob[])[];
  /** Sum of the chosen tokens' log probabilities; present if `logprobs` was requested. */
  readonly cumulativeLogprob?: number;
}

/** The result of {@link VllmModel.generate}. Its own fields are those of the first choice; `choices` has all of them. */
export interface GenerateResult extends Omit<Choice, "index" | "completionTokens"> {
  /** Tokens of the whole request. */
  readonly usage: Usage;
  /** All `n` answers, in the order of their index. */
  readonly choices: readonly Choice[];
  /** The id that the request carried through Triton and vLLM. */
  readonly requestId: string;
}

/** A piece of a streamed answer. */
export interface StreamChunk {
  /** Which of the `n` choices it belongs to. */
  readonly index: number;
  /** The new text; may be empty. */
  readonly text: string;
  /** Set on the last piece of a choice. */
  readonly finishReason: FinishReason | null;
  /** Log probabilities of the new tokens, if they were requested. */
  readonly logprobs?: readonly (readonly TokenLogprob[])[];
  /** Sum of the log probabilities so far. */
  readonly cumulativeLogprob?: number;
  /** Set on the last piece of the request. */
  readonly usage?: Usage;
}

function column(response: InferenceResponse, name: string): ArrayLike<unknown> | undefined {
  return response.outputs[name]?.data as ArrayLike<unknown> | undefined;
}

/** The `logprobs` output: a JSON list with an object per token, keyed by token id; "null" if none were requested. */
function parseLogprobs(json: unknown): TokenLogprob[][] | undefined {
  if (typeof json !== "string" || json === "null") return undefined;
  const positions = JSON.parse(json) as Record<string, { logprob: number; rank: number; decoded_token: string }>[];
  return positions.map((position) =>
    Object.entries(position).map(([tokenId, entry]) => ({
      tokenId: Number(tokenId),
      token: entry.decoded_token,
      logprob: entry.logprob,
      rank: entry.rank,
    })),
  );
}

/** Reads the responses of one request and counts its tokens. */
export class ResponseReader {
  #promptTokens = 0;
  #completionTokens = 0;
  readonly #finished = new Set<number>();
  /** The choices so far. */
  readonly #answers: Answer[] = [];

  get usage(): Usage {
    return {
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens,
      totalTokens: this.#promptTokens + this.#completionTokens,
    };
  }

  /** The choices of a response, in the order of their index. */
  choices(response: InferenceResponse): Choice[] {
    const texts = column(response, "text_output") ?? [];
    const reasons = column(response, "finish_reason");
    const counts = column(response, "num_output_tokens");
    const logprobs = column(response, "logprobs");
    const cumulative = column(response, "cumulative_logprob");
    this.#promptTokens = Number(column(response, "num_input_tokens")?.[0] ?? this.#promptTokens);
    const choices: Choice[] = [];
    for (let index = 0; index < texts.length; index++) {
      const completionTokens = Number(counts?.[index] ?? 0);
      this.#completionTokens += completionTokens;
      const parsed = parseLogprobs(logprobs?.[index]);
      const choice: Choice = {
        index,
        text: texts[index] as string,
        finishReason: reasons === undefined ? (response.final ? "unknown" : "None") : (reasons[index] as string),
        completionTokens,
        ...(parsed === undefined ? {} : { logprobs: parsed }),
        ...(parsed === undefined || cumulative === undefined ? {} : { cumulativeLogprob: Number(cumulative[index]) }),
      };
      choices.push(choice);
      this.#answers[index] = extend(this.#answers[index], choice);
    }
    return choices;
  }

  /** The whole answer, after all responses were read. */
  result(requestId: string): GenerateResult {
    const [first] = this.#answers;
    if (first === undefined) throw new TritonodeError("ERR_INTERNAL", "the model answered without a choice");
    const { index: _index, completionTokens: _tokens, ...rest } = first;
    return { ...rest, usage: this.usage, choices: [...this.#answers], requestId };
  }

  /** The pieces of a streamed response: one for each choice that has new text or has ended. */
  chunks(response: InferenceResponse): StreamChunk[] {
    const chunks: StreamChunk[] = [];
    for (const choice of this.choices(response)) {
      const ended = choice.finishReason !== "None";
      if (this.#finished.has(choice.index) || (!ended && choice.completionTokens === 0 && choice.text === "")) continue;
      if (ended) this.#finished.add(choice.index);
      const { completionTokens: _, finishReason, ...rest } = choice;
      chunks.push({ ...rest, finishReason: ended ? finishReason : null });
    }
    const last = chunks.at(-1);
    if (response.final && last !== undefined) chunks[chunks.length - 1] = { ...last, usage: this.usage };
    return chunks;
  }
}

type Answer = { -readonly [Name in keyof Choice]: Choice[Name] } & { logprobs?: TokenLogprob[][] };

/** Appends a piece to its choice, in place because this happens for every token. */
function extend(answer: Answer | undefined, piece: Choice): Answer {
  const { index, text, finishReason, completionTokens, logprobs, cumulativeLogprob } = piece;
  const joined: Answer = answer ?? { index, text: "", finishReason: "None", completionTokens: 0 };
  joined.text += text;
  joined.completionTokens += completionTokens;
  // Once a choice has ended, its reason stays: what follows belongs to the others.
  if (joined.finishReason === "None") joined.finishReason = finishReason;
  if (logprobs !== undefined) {
    joined.logprobs ??= [];
    for (const position of logprobs) joined.logprobs.push([...position]);
  }
  if (cumulativeLogprob !== undefined) joined.cumulativeLogprob = cumulativeLogprob;
  return joined;
}

/**
 * Joins two unread streamed responses. Texts and logprobs are deltas and are concatenated, counts are added, and other fields are
 * taken from the later response.
 */
export function mergeResponses(earlier: InferenceResponse, later: InferenceResponse): InferenceResponse | undefined {
  const outputs = { ...later.outputs };
  for (const [name, tensor] of Object.entries(later.outputs)) {
    const before = earlier.outputs[name];
    if (before === undefined || before.data.length !== tensor.data.length) return undefined;
    const [a, b] = [before.data as ArrayLike<unknown>, tensor.data as ArrayLike<unknown>];
    const joined = (join: (x: never, y: never) => unknown) =>
      Array.from({ length: b.length }, (_, i) => join(a[i] as never, b[i] as never));
    if (name === "text_output") {
      outputs[name] = { ...tensor, data: joined((x: string, y: string) => x + y) as string[] };
    } else if (name === "num_output_tokens") {
      outputs[name] = { ...tensor, data: joined((x: number, y: number) => x + y) as number[] };
    } else if (name === "logprobs") {
      outputs[name] = { ...tensor, data: joined(joinJsonLists) as string[] };
    }
  }
  return { ...later, outputs };
}

function joinJsonLists(earlier: string, later: string): string {
  if (later === "null" || later === "[]") return earlier;
  if (earlier === "null" || earlier === "[]") return later;
  return `${earlier.slice(0, -1)},${later.slice(1)}`;
}

/** A piece of a generated text; see `ResponseState.take_entry` in backends/vllm/tritonode/contract/responses.py. */
export function readTextEntry(entry: DeltaEntry): Record<string, Tensor> {
  const [, , texts, reasons, tokens, promptTokens, cumulative, logprobs] = entry as unknown as [
    string,
    number,
    string[],
    string[],
    number[],
    number,
    number[] | undefined,
    string[] | undefined,
  ];
  const outputs: Record<string, Tensor> = {
    text_output: tensor("text_output", "BYTES", texts),
    finish_reason: tensor("finish_reason", "BYTES", reasons),
    num_output_tokens: tensor("num_output_tokens", "UINT32", tokens),
    num_input_tokens: tensor("num_input_tokens", "UINT32", [promptTokens]),
  };
  if (cumulative !== undefined && logprobs !== undefined) {
    outputs["cumulative_logprob"] = tensor("cumulative_logprob", "FP32", cumulative);
    outputs["logprobs"] = tensor("logprobs", "BYTES", logprobs);
  }
  return outputs;
}
