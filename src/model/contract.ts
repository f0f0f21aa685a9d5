import { InvalidArgumentError, TritonodeError } from "../errors";
import type { InferenceRequest } from "../server";
import type { InputTensor } from "../transport/tensors";

/**
 * The model is served by another vLLM backend (option `backend`), which does not have the requested feature.
 * Nothing was sent.
 */
export class BackendFeatureError extends TritonodeError {
  constructor(feature: string) {
    super("ERR_BACKEND_FEATURE", `the model's backend has no ${feature}`, {
      hint: "it has only generate and stream; leave out `backend` to serve the model with tritonode's own",
    });
  }
}

/** What a backend accepts, according to the inputs in the model configuration that it has completed. */
export interface BackendInputs {
  readonly names: ReadonlySet<string>;
  /** Whether it is this package's backend, which also supports control operations, HTTP requests and a channel. */
  readonly own: boolean;
}

/** Reads the inputs from the model configuration that Triton returns (`ModelConfig` of model_config.proto). */
export function inputsOf(configuration: string): BackendInputs {
  const { input = [] } = JSON.parse(configuration) as { input?: { name: string }[] };
  const names = new Set(input.map(({ name }) => name));
  return { names, own: names.has("control_request") && names.has("http_request") };
}

/** The parameter that carries the contract's inputs to this package's backend (`prepareRequest`). */
const hostRequest = "tritonode_request";

interface HostRequest {
  stream: boolean;
  sampling_parameters: string;
  returns: string[];
  prompt_token_ids?: number[];
}

/**
 * Converts a request of {@link prepareRequest} to tensors, for any backend that implements the contract of Triton's vLLM
 * backend (README of triton-inference-server/vllm_backend; docs/additional_outputs.md there). Outputs that the model does
 * not declare (before 24.12: finish reason and token counts) are not requested.
 *
 * @throws {@link BackendFeatureError} for token ids, and for an adapter that is given with its path or a scale
 */
export function toContract<Request extends Pick<InferenceRequest, "inputs" | "outputs" | "parameters">>(
  request: Request,
  { names }: BackendInputs,
): Request {
  const { [hostRequest]: text, ...parameters } = request.parameters ?? {};
  const host = JSON.parse(String(text)) as HostRequest;
  const sampling = JSON.parse(host.sampling_parameters) as Record<string, unknown>;
  if (host.prompt_token_ids !== undefined) throw new BackendFeatureError("prompts of token ids");
  if (sampling["lora_path"] !== undefined || sampling["lora_scale"] !== undefined) {
    throw new BackendFeatureError("adapters that are loaded at run time");
  }
  const structured = sampling["structured_outputs"];
  // This one field is read from a JSON text inside the JSON.
  if (typeof structured === "object" && structured !== null) {
    sampling["structured_outputs"] = JSON.stringify(structured);
  }
  const flag = (name: string, value: boolean): InputTensor => ({ name, datatype: "BOOL", data: [value] });
  const inputs: InputTensor[] = [
    ...(request.inputs ?? []),
    flag("stream", host.stream),
    flag("exclude_input_in_output", true),
    { name: "sampling_parameters", datatype: "BYTES", data: [JSON.stringify(sampling)] },
  ];
  const optional = host.returns.filter((name) => names.has(name));
  for (const name of optional) inputs.push(flag(name, true));
  const missing = inputs.find(({ name }) => !names.has(name));
  if (missing?.name === "image") throw new BackendFeatureError("images");
  if (missing !== undefined && missing.name !== "exclude_input_in_output") {
    throw new InvalidArgumentError(`the model takes no input '${missing.name}'`, {
      hint: "its backend does not keep to the contract of Triton's vLLM backend",
    });
  }
  const outputs = ["text_output", ...optional.map((name) => name.slice("return_".length))];
  return { ...request, inputs: inputs.filter(({ name }) => names.has(name)), outputs, parameters };
}
