/**
 * `tritonode/ai-sdk`: a provider for the AI SDK (https://ai-sdk.dev). It has the SDK's types alone, and none of its code.
 *
 * @module ai-sdk
 */

export { createTritonode, type TritonodeProvider, type TritonodeProviderSettings } from "./provider";
