/**
 * vLLM's sampling parameters, under vLLM's own names and with vLLM's own defaults
 * (https://docs.vllm.ai, `vllm.SamplingParams`). One that this list does not name goes into `extra`. vLLM checks them
 * all, and an unknown one is an {@link InvalidArgumentError} that names the nearest.
 */
export interface SamplingParameters {
  /** Choices to generate for the prompt. */
  n?: number;
  /** Most tokens per choice; vLLM's default is 16. `null`: as many as the context holds. */
  max_tokens?: number | null;
  min_tokens?: number;
  /** 0 is greedy; vLLM's default is 1. */
  temperature?: number;
  top_p?: number;
  top_k?: number;
  min_p?: number;
  seed?: number | null;
  presence_penalty?: number;
  frequency_penalty?: number;
  repetition_penalty?: number;
  stop?: string | string[] | null;
  stop_token_ids?: number[] | null;
  include_stop_str_in_output?: boolean;
  ignore_eos?: boolean;
  bad_words?: string[] | null;
  logit_bias?: Record<string, number> | null;
  allowed_token_ids?: number[] | null;
  /** Log probabilities per token: the chosen one and this many of the likeliest. */
  logprobs?: number | null;
  /** Log probabilities of these tokens, whatever their rank. */
  logprob_token_ids?: number[] | null;
  skip_special_tokens?: boolean;
  spaces_between_special_tokens?: boolean;
  /** Constrains the text: one of `json` (a schema), `regex`, `choice`, `grammar`, `json_object`, `structural_tag`. */
  structured_outputs?: StructuredOutputs | null;
  /** Stops a text that repeats itself. */
  repetition_detection?: object | null;
  /** Most tokens that a reasoning model may think. */
  thinking_token_budget?: number | null;
  /** Adds a watermark, where the engine has one set up. */
  watermarking?: boolean | null;
  /** For plug-ins of vLLM (logits processors). */
  extra_args?: Record<string, unknown> | null;
}

/** vLLM's `StructuredOutputsParams`; exactly one kind of constraint. */
export interface StructuredOutputs {
  json?: object | string;
  regex?: string;
  choice?: string[];
  grammar?: string;
  json_object?: boolean;
  structural_tag?: string;
  disable_any_whitespace?: boolean;
  disable_additional_properties?: boolean;
  whitespace_pattern?: string;
}
