export type { SamplingParameters, StructuredOutputs } from "./generated/sampling-parameters";
