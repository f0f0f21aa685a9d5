export {
  type AdapterInfo,
  type AdapterInspection,
  type AdapterLoadOptions,
  type AdapterState,
  Adapters,
} from "./adapters";
export { BackendFeatureError } from "./contract";
export type { LoadDiagnostics, RequestDiagnostics } from "./diagnostics";
export type { AdapterEvent, LogEvent, ModelEvents } from "./events";
export { AdapterLoadError, AdapterNotFoundError, LoraDisabledError, MultiLoraMissingError } from "./failure";
export type { GenerationStream } from "./generation";
export type { ModelInfo } from "./info";
export type { LoadProgress, ObjectOptions, PrewarmOptions, RepositoryOptions, VllmModelOptions } from "./load";
export type { MapOptions, MapResult, MapSource } from "./map";
export type { AdapterMetrics, EngineMetrics, Histogram, ModelMetrics } from "./metrics";
export { type DisposeOptions, VllmModel } from "./model";
export type { AdapterChoice, CallOptions } from "./options";
export { WarmChild } from "./prewarm";
export type { EngineArguments } from "./repository";
export type { GenerateOptions, Prompt, RequestOptions } from "./request";
export type { RestartEvent, RestartOptions } from "./restart";
export type { Choice, FinishReason, GenerateResult, StreamChunk, TokenLogprob, Usage } from "./results";
export type { SamplingParameters, StructuredOutputs } from "./sampling";
export { CancellableStream } from "./stream";
