import { join } from "node:path";
import { type Client, credentials, loadPackageDefinition, type ServiceError, status } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { root } from "./paths";

// A client of Triton's gRPC service, for the tests of the backend on the stock server.

interface TritonService extends Client {
  [method: string]: unknown;
}

const definition = loadSync(join(root, "bench/peers/inference.proto"), {
  keepCase: true,
  longs: Number,
  defaults: true,
});
const { inference } = loadPackageDefinition(definition) as unknown as {
  inference: { GRPCInferenceService: new (address: string, credentials: unknown) => TritonService };
};

export interface GrpcRequest {
  model: string;
  text?: string;
  stream?: boolean;
  exclude?: boolean;
  sampling?: object;
  /** The same as the request's own parameters. */
  parameters?: Record<string, string | number | boolean>;
  returns?: readonly string[];
  control?: object;
}

/** A response's outputs: BYTES as texts, numbers as numbers. */
export type GrpcOutputs = Record<string, (string | number)[]>;

interface RawResponse {
  outputs: { name: string; datatype: string }[];
  raw_output_contents: Buffer[];
}

const readers: Record<string, (raw: Buffer) => (string | number)[]> = {
  FP32: (raw) => Array.from({ length: raw.length / 4 }, (_, at) => raw.readFloatLE(4 * at)),
  UINT32: (raw) => Array.from({ length: raw.length / 4 }, (_, at) => raw.readUInt32LE(4 * at)),
  // Each element is a length of 4 bytes, little endian, and its bytes.
  BYTES: (raw) => {
    const texts: string[] = [];
    for (let at = 0; at < raw.length; ) {
      const end = at + 4 + raw.readUInt32LE(at);
      texts.push(raw.toString("utf8", at + 4, end));
      at = end;
    }
    return texts;
  },
};

function read({ outputs, raw_output_contents }: RawResponse): GrpcOutputs {
  return Object.fromEntries(
    outputs.map(({ name, datatype }, at) => [name, readers[datatype]?.(raw_output_contents[at] as Buffer) ?? []]),
  );
}

function parameter(value: string | number | boolean): object {
  if (typeof value === "string") return { string_param: value };
  if (typeof value === "boolean") return { bool_param: value };
  return Number.isInteger(value) ? { int64_param: value } : { double_param: value };
}

function message(request: GrpcRequest): object {
  const text = (name: string, value: string | undefined) =>
    value === undefined
      ? []
      : [{ name, datatype: "BYTES", shape: [1], contents: { bytes_contents: [Buffer.from(value)] } }];
  const bool = (name: string, value: boolean | undefined) =>
    value === undefined ? [] : [{ name, datatype: "BOOL", shape: [1], contents: { bool_contents: [value] } }];
  const json = (value: object | undefined) => (value === undefined ? undefined : JSON.stringify(value));
  return {
    model_name: request.model,
    parameters: Object.fromEntries(
      Object.entries(request.parameters ?? {}).map(([name, value]) => [name, parameter(value)]),
    ),
    inputs: [
      ...text("text_input", request.text ?? ""),
      ...text("sampling_parameters", json(request.sampling)),
      ...text("control_request", json(request.control)),
      ...bool("stream", request.stream),
      ...bool("exclude_input_in_output", request.exclude),
      ...(request.returns ?? []).flatMap((name) => bool(name, true)),
    ],
  };
}

/** Milliseconds for a call that is no stream: less than vitest's own, so that a hang is reported with what was called. */
const CALL_TIMEOUT = 150_000;

export class GrpcClient {
  readonly #service: TritonService;

  constructor(port: number) {
    this.#service = new inference.GRPCInferenceService(`127.0.0.1:${port}`, credentials.createInsecure());
  }

  #call<T>(method: string, request: object): Promise<T> {
    return new Promise((resolve, reject) => {
      const call = this.#service[method] as (
        request: object,
        options: { deadline: number },
        done: (error: ServiceError | null, answer: T) => void,
      ) => void;
      const options = { deadline: Date.now() + CALL_TIMEOUT };
      call.call(this.#service, request, options, (error, answer) => {
        if (error === null) return resolve(answer);
        // Of several calls in a test, the stack does not tell which one had no answer.
        if (error.code === status.DEADLINE_EXCEEDED)
          error.message = `${method} ${JSON.stringify(request)}: ${error.message}`;
        reject(error);
      });
    });
  }

  load(model: string): Promise<unknown> {
    return this.#call("RepositoryModelLoad", { model_name: model });
  }

  unload(model: string): Promise<unknown> {
    return this.#call("RepositoryModelUnload", { model_name: model });
  }

  async isReady(model: string): Promise<boolean> {
    return (await this.#call<{ ready: boolean }>("ModelReady", { name: model })).ready;
  }

  /** Sends a request on a stream of its own; the responses that carry outputs, or rejects with Triton's message. */
  ask(request: GrpcRequest): Promise<GrpcOutputs[]> {
    return this.start(request).done;
  }

  /** The same; `cancel` ends the stream, `received` holds what has come. */
  start(request: GrpcRequest): { done: Promise<GrpcOutputs[]>; cancel(): void; received: GrpcOutputs[] } {
    const call = (
      this.#service["ModelStreamInfer"] as () => import("@grpc/grpc-js").ClientDuplexStream<
        object,
        { error_message: string; infer_response: RawResponse | null }
      >
    ).call(this.#service);
    const received: GrpcOutputs[] = [];
    const done = new Promise<GrpcOutputs[]>((resolve, reject) => {
      call.on("data", ({ error_message, infer_response }) => {
        if (error_message !== "") reject(new Error(error_message));
        // The empty response says only that it was the last.
        else if (infer_response !== null && infer_response.outputs.length > 0) received.push(read(infer_response));
      });
      call.on("error", reject);
      call.on("end", () => resolve(received));
    });
    call.write(message(request));
    call.end();
    return { done, cancel: () => call.cancel(), received };
  }

  close(): void {
    this.#service.close();
  }
}
