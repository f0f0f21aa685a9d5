import type { CallOptions } from "../options";

/** Options of {@link VllmModel.embed}; further fields of vLLM's embedding request go into `extra`. */
export interface EmbedOptions extends CallOptions {
  /** Length of the embeddings, for a model made for several (Matryoshka). */
  dimensions?: number | undefined;
  add_special_tokens?: boolean | undefined;
  /** Cuts longer texts to this many tokens; -1: to what the model takes. */
  truncate_prompt_tokens?: number | undefined;
  user?: string | undefined;
}

/** Options of {@link VllmModel.tokenize}; further fields of vLLM's request go into `extra`. */
export interface TokenizeOptions extends CallOptions {
  /** Begin-of-text and the like; by default true for a text and false for messages, whose template has them. */
  add_special_tokens?: boolean | undefined;
  /** For messages: end with the beginning of the assistant's answer. */
  add_generation_prompt?: boolean | undefined;
  continue_final_message?: boolean | undefined;
  chat_template?: string | undefined;
  chat_template_kwargs?: Record<string, unknown> | undefined;
  tools?: readonly object[] | undefined;
}
