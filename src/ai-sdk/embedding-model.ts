import type { EmbeddingModelV3 } from "@ai-sdk/provider";
import type { VllmModel } from "../model";
import type { Chosen } from "./model-id";

/** An embedding model of the AI SDK over {@link VllmModel.embed}. */
export function createEmbeddingModel(model: VllmModel, { id, lora }: Chosen, provider: string): EmbeddingModelV3 {
  return {
    specificationVersion: "v3",
    provider,
    modelId: id,
    maxEmbeddingsPerCall: Number.POSITIVE_INFINITY,
    supportsParallelCalls: true,
    async doEmbed({ values, abortSignal, providerOptions }) {
      const extra = providerOptions?.[provider];
      const { embeddings, usage } = await model
        .embed(values, { lora, signal: abortSignal, ...(extra === undefined ? {} : { extra }) })
        .catch((error: unknown) => {
          // The SDK knows an abort by the signal's own reason.
          throw abortSignal?.aborted ? abortSignal.reason : error;
        });
      return {
        embeddings: embeddings.map((embedding) => Array.from(embedding)),
        usage: { tokens: usage.totalTokens },
        warnings: [],
      };
    },
  };
}
