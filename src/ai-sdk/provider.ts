import type { EmbeddingModelV3, LanguageModelV3, ProviderV3 } from "@ai-sdk/provider";
import { InvalidArgumentError } from "../errors";
import type { AdapterChoice, VllmModel } from "../model";
import type { ChatOptions } from "../model/openai";
import { createEmbeddingModel } from "./embedding-model";
import { createLanguageModel } from "./language-model";
import { chosen } from "./model-id";

/** Options of {@link createTritonode}. */
export interface TritonodeProviderSettings {
  /** The provider's name in logs and telemetry; `providerOptions` are read under it. Default `"tritonode"`. */
  readonly name?: string | undefined;
  /** Options of every chat request, for example `{ chat_template_kwargs: { enable_thinking: false } }`. */
  readonly chat?: Partial<ChatOptions<undefined>> | undefined;
}

/**
 * The AI SDK's provider of one loaded model. A model id is an adapter's name, or the name of the base model
 * (`model.name`, or left out); an adapter can be given with its folder and a scale too ({@link AdapterChoice}).
 */
export interface TritonodeProvider extends ProviderV3 {
  (id?: AdapterChoice): LanguageModelV3;
  languageModel(id?: AdapterChoice): LanguageModelV3;
  /** For a model that embeds (engine argument `runner: "pooling"`). */
  embeddingModel(id?: AdapterChoice): EmbeddingModelV3;
  textEmbeddingModel(id?: AdapterChoice): EmbeddingModelV3;
}

/**
 * A provider for the AI SDK, over a model in this process.
 *
 * ```ts
 * import { generateText } from "ai";
 * import { createTritonode } from "tritonode/ai-sdk";
 *
 * const tritonode = createTritonode(model);
 * const { text } = await generateText({ model: tritonode("sql"), prompt: "How many users are there?" });
 * ```
 *
 * Fields of vLLM's request that the SDK does not know go into `providerOptions.tritonode`, under vLLM's names.
 */
export function createTritonode(model: VllmModel, settings: TritonodeProviderSettings = {}): TritonodeProvider {
  if (typeof model?.chat !== "function") {
    throw new InvalidArgumentError("createTritonode takes a loaded model", {
      hint: "createTritonode(await VllmModel.load({ ... }))",
    });
  }
  const { name = "tritonode" } = settings;
  const languageModel = (id?: AdapterChoice) =>
    createLanguageModel(model, chosen(model, id), name, settings.chat ?? {});
  const embeddingModel = (id?: AdapterChoice) => createEmbeddingModel(model, chosen(model, id), name);
  return Object.assign(languageModel, {
    specificationVersion: "v3" as const,
    languageModel,
    embeddingModel,
    textEmbeddingModel: embeddingModel,
    imageModel: (id: string): never => {
      throw new InvalidArgumentError(`there is no image model '${id}': vLLM generates text and embeddings`);
    },
  });
}
