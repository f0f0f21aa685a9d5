import { InvalidArgumentError } from "../../errors";
import { traced } from "../diagnostics";
import { checkOptions } from "../options";
import type { Usage } from "../results";
import { type OpenAiRoutes, post } from "./call";
import { type RawUsage, toUsage } from "./chat";
import { HttpStatusError } from "./errors";
import { embedFields } from "./fields";
import type { EmbedOptions } from "./request-types";

/** The result of {@link VllmModel.embed}. */
export interface EmbedResult {
  /** One embedding for each text, in the order of the texts. */
  readonly embeddings: readonly Float32Array[];
  /** Tokens of the texts. */
  readonly usage: Usage;
}

/** See {@link VllmModel.embed}. */
export async function embed(
  routes: OpenAiRoutes,
  input: string | readonly string[],
  options: EmbedOptions,
): Promise<EmbedResult> {
  const texts = typeof input === "string" ? [input] : input;
  if (!Array.isArray(texts) || texts.length === 0 || !texts.every((text) => typeof text === "string")) {
    throw new InvalidArgumentError("embed takes a text or a list of texts");
  }
  const checked = checkOptions(options, { call: "embed", fields: embedFields });
  // base64 of the floats' bytes: exact, and a third of the size of decimal numbers.
  const request = { input: texts, encoding_format: "base64", ...checked.fields };
  const run = async () => {
    const { json } = await post(routes, "embeddings", request, checked).catch((error: unknown) => {
      throw error instanceof HttpStatusError && error.status === 404 ? notEmbedding(error) : error;
    });
    const answer = await json<{ data: { index: number; embedding: string }[]; usage: RawUsage }>();
    const embeddings: Float32Array[] = [];
    for (const { index, embedding } of answer.data) embeddings[index] = floats(embedding);
    return { embeddings, usage: toUsage(answer.usage) };
  };
  return traced(routes.trace("embeddings", checked, false), run, ({ usage }) => ({ usage }));
}

/** vLLM has this route only for embedding models. */
function notEmbedding(cause: HttpStatusError): HttpStatusError {
  return new HttpStatusError(404, "this model does not embed", cause.body, {
    cause,
    hint: 'load it with the engine arguments { runner: "pooling", convert: "embed" }, or load a model made for embedding',
  });
}

function floats(base64: string): Float32Array {
  const bytes = Uint8Array.from(Buffer.from(base64, "base64"));
  return new Float32Array(bytes.buffer);
}
