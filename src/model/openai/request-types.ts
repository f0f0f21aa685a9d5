import type { CallOptions } from "../options";

/** Options of {@link VllmModel.embed}; further fields of vLLM's embedding request go into `extra`. */
export interface EmbedOptions extends CallOptions {
  /** Length of the embeddings, for a model that was trained for several lengths (Matryoshka). */
  dimensions?: number | undefined;
  add_special_tokens?: boolean | undefined;
  /** Truncates longer texts to this many tokens; -1: to the model's maximum. */
  truncate_prompt_tokens?: number | undefined;
  user?: string | undefined;
}

/** Options of {@link VllmModel.tokenize}; further fields of vLLM's request go into `extra`. */
export interface TokenizeOptions extends CallOptions {
  /** Whether to add special tokens such as begin-of-text. Default: true for a text, false for messages, whose template has them. */
  add_special_tokens?: boolean | undefined;
  /** For messages: whether to end with the beginning of the assistant's answer. */
  add_generation_prompt?: boolean | undefined;
  continue_final_message?: boolean | undefined;
  chat_template?: string | undefined;
  chat_template_kwargs?: Record<string, unknown> | undefined;
  tools?: readonly object[] | undefined;
}
