import type { CallOptions } from "../options";
import type { ChatOptions } from "./chat-types";
import type { EmbedOptions, TokenizeOptions } from "./request-types";

// vLLM's application ignores fields that it does not know, so a misspelt one would have no effect. The types here make the
// compiler compare these names with those of the options' types.

type FieldsOf<Options, Ours extends string = never> = Record<Exclude<keyof Options, keyof CallOptions | Ours>, true>;

/** Fields of a chat completion request that {@link ChatOptions} lists. */
export const chatFields = Object.keys({
  n: true,
  max_tokens: true,
  min_tokens: true,
  temperature: true,
  top_p: true,
  top_k: true,
  min_p: true,
  seed: true,
  presence_penalty: true,
  frequency_penalty: true,
  repetition_penalty: true,
  stop: true,
  stop_token_ids: true,
  include_stop_str_in_output: true,
  ignore_eos: true,
  bad_words: true,
  logit_bias: true,
  allowed_token_ids: true,
  logprob_token_ids: true,
  skip_special_tokens: true,
  spaces_between_special_tokens: true,
  structured_outputs: true,
  repetition_detection: true,
  thinking_token_budget: true,
  watermarking: true,
  tools: true,
  tool_choice: true,
  parallel_tool_calls: true,
  logprobs: true,
  top_logprobs: true,
  prompt_logprobs: true,
  max_completion_tokens: true,
  response_format: true,
  reasoning_effort: true,
  include_reasoning: true,
  chat_template: true,
  chat_template_kwargs: true,
  add_generation_prompt: true,
  continue_final_message: true,
  add_special_tokens: true,
  documents: true,
  mm_processor_kwargs: true,
  priority: true,
  user: true,
  stream_options: true,
} satisfies FieldsOf<ChatOptions, "structured">);

/** Fields of an embedding request that {@link EmbedOptions} lists. */
export const embedFields = Object.keys({
  dimensions: true,
  add_special_tokens: true,
  truncate_prompt_tokens: true,
  user: true,
} satisfies FieldsOf<EmbedOptions>);

/** Fields of a tokenize request that {@link TokenizeOptions} lists. */
export const tokenizeFields = Object.keys({
  add_special_tokens: true,
  add_generation_prompt: true,
  continue_final_message: true,
  chat_template: true,
  chat_template_kwargs: true,
  tools: true,
} satisfies FieldsOf<TokenizeOptions>);
