export type { InferenceResponse } from "../transport/channel";
export type { InputTensor, NumericArray, Tensor, TensorData, TritonDataType } from "../transport/tensors";
export type { ServerChild } from "./children";
export type { Logger } from "./logger";
export type { LoadModelOptions } from "./models";
export type { ServerDescription, TritonServerOptions } from "./options";
export type { InferenceRequest } from "./request";
export type { ResponseStream } from "./stream";
export { type ModelIndexEntry, TritonServer } from "./triton-server";
