export { type AdapterInfo, type AdapterInspection, type AdapterState, Adapters } from "./adapters";
export { AdapterLoadError, AdapterNotFoundError, LoraDisabledError, MultiLoraMissingError } from "./failure";
export type { LoadProgress, ObjectOptions, RepositoryOptions, VllmModelOptions } from "./load";
export { type DisposeOptions, type ModelInfo, VllmModel } from "./model";
export type { EngineArguments } from "./repository";
export type { GenerateOptions, RequestOptions } from "./request";
export type { Choice, FinishReason, GenerateResult, StreamChunk, TokenLogprob, Usage } from "./results";
export type { SamplingParameters, StructuredOutputs } from "./sampling";
export type { GenerationStream } from "./stream";
