import { describe } from "../common/describe";
import { checkNames } from "../common/unknown";
import { InvalidArgumentError } from "../errors";
import type { InputTensor } from "../transport/tensors";
import type { BackendRequest } from "./backend";
import { type CallOptions, checkOptions, fieldsToJson } from "./options";
import { mergeResponses, readTextEntry } from "./results";
import type { SamplingParameters } from "./sampling";

/** Options of a request besides vLLM's sampling parameters. */
export interface RequestOptions extends CallOptions {
  /** vLLM's scheduling priority: lower is sooner (engine argument `scheduling_policy: "priority"`). */
  priority?: number | undefined;
  /** The request's id in Triton's and vLLM's logs. Default: a random one. */
  requestId?: string | undefined;
  /** Images for a vision model: base64 text, or the bytes of an image file. */
  images?: readonly (string | Uint8Array)[] | undefined;
}

/** Options of {@link VllmModel.generate} and {@link VllmModel.stream}: tritonode's in camelCase, vLLM's under their own names. */
export type GenerateOptions = SamplingParameters & RequestOptions;

/** Names of the options that are neither vLLM's nor those of every call. */
export const generateOptions: readonly string[] = ["requestId", "images"];

/** vLLM's token ids are 32 bits. */
const maxToken = 2 ** 31 - 1;

/** A prompt: a text, or its token ids (from {@link VllmModel.tokenize}, or your own tokenizer). */
export type Prompt = string | readonly number[] | { readonly promptTokenIds: readonly number[] };

/**
 * Makes the request for one prompt, in the form that this package's backend accepts: the prompt is a tensor, and the other inputs
 * of the contract are in one request parameter (`HOST_REQUEST` in backends/vllm/tritonode/contract/requests.py), because each
 * tensor costs time.
 *
 * @throws {@link InvalidArgumentError} for an invalid prompt or option, before anything is sent.
 */
export function prepareRequest(prompt: Prompt, options: GenerateOptions, stream: boolean) {
  const tokens = tokensOf(prompt);
  const text = tokens === undefined ? checkPrompt(prompt) : "";
  const { lora, signal, deadline, fields } = checkOptions(options, { ours: generateOptions });
  const { requestId, images } = options;
  if (requestId !== undefined && typeof requestId !== "string") {
    throw new InvalidArgumentError(`requestId must be a string, got ${describe(requestId)}`);
  }
  if ((fields["prompt_logprobs"] ?? null) !== null) {
    throw new InvalidArgumentError("generate and stream do not return prompt_logprobs", {
      hint: "model.chat({ prompt_logprobs }) has them in `response`, as has /v1/completions through model.fetch",
    });
  }
  const withLogprobs = typeof fields["logprobs"] === "number";
  if (lora !== undefined) fields["lora_name"] = lora.name;
  if (lora?.path !== undefined) fields["lora_path"] = lora.path;
  if (lora?.scale !== undefined) fields["lora_scale"] = lora.scale;
  const flags = ["return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"];
  if (withLogprobs) flags.push("return_logprobs", "return_cumulative_logprob");
  const inputs: InputTensor[] = [{ name: "text_input", datatype: "BYTES", data: [text] }];
  if (images !== undefined) inputs.push({ name: "image", datatype: "BYTES", data: encodeImages(images) });
  const request = {
    stream,
    sampling_parameters: fieldsToJson(fields, "sampling parameter"),
    returns: flags,
    ...(tokens === undefined ? {} : { prompt_token_ids: tokens }),
  };
  return {
    inputs,
    parameters: { tritonode_request: JSON.stringify(request) },
    outputs: ["text_output", ...flags.map((flag) => flag.slice("return_".length))],
    id: requestId,
    signal,
    deadline,
    merge: mergeResponses,
    read: stream ? readTextEntry : undefined,
  } satisfies BackendRequest;
}

/** Checks a prompt of token ids. @throws {@link InvalidArgumentError} naming the first that is not a token id. */
function tokensOf(prompt: unknown): readonly number[] | undefined {
  const named = typeof prompt === "object" && prompt !== null && !Array.isArray(prompt);
  if (named) checkNames("a prompt", prompt, ["promptTokenIds"]);
  const tokens = named ? (prompt as { promptTokenIds?: unknown }).promptTokenIds : prompt;
  if (!named && !Array.isArray(prompt)) return undefined;
  if (!Array.isArray(tokens) || tokens.length === 0) {
    throw new InvalidArgumentError(`a prompt of token ids must be a list of at least one, got ${describe(tokens)}`);
  }
  const wrong = tokens.findIndex((token) => !Number.isSafeInteger(token) || token < 0 || token > maxToken);
  if (wrong === -1) return tokens as number[];
  throw new InvalidArgumentError(`token ${wrong} of the prompt is not a token id: ${describe(tokens[wrong])}`, {
    hint: "token ids are whole numbers from 0 on: model.tokenize(text) gives those of a text",
  });
}

function checkPrompt(prompt: unknown): string {
  if (typeof prompt !== "string") {
    throw new InvalidArgumentError(`the prompt must be a string or a list of token ids, got ${describe(prompt)}`);
  }
  if (prompt === "") {
    throw new InvalidArgumentError("the prompt is empty", {
      hint: "a decoder model needs at least one token to continue from",
    });
  }
  if (!prompt.isWellFormed()) {
    const at = [...prompt].findIndex((character) => !character.isWellFormed());
    throw new InvalidArgumentError(`the prompt is not valid UTF-16: a lone surrogate at character ${at}`, {
      hint: "clean it with prompt.toWellFormed()",
    });
  }
  return prompt;
}

function encodeImages(images: readonly (string | Uint8Array)[]): string[] {
  if (!Array.isArray(images)) throw new InvalidArgumentError(`images must be an array, got ${describe(images)}`);
  return images.map((image, at) => {
    if (typeof image === "string") return image.replace(/^data:[^,]*;base64,/, "");
    if (image instanceof Uint8Array)
      return Buffer.from(image.buffer, image.byteOffset, image.byteLength).toString("base64");
    throw new InvalidArgumentError(`images[${at}] must be base64 text or bytes, got ${describe(image)}`);
  });
}
