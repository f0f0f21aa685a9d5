import { readFileSync } from "node:fs";
import { join } from "node:path";
import { findRuntime } from "../../src/runtime/find/find";
import type { InferenceRequest, InferenceResponse, TritonServer } from "../../src/server";
import type { ResolvedServerOptions } from "../../src/server/options";

/** A Python model that does what each request's `command` says. */
export const commandModel = readFileSync(join(__dirname, "command_model.py"), "utf8");

/** One response for each request, and every datatype: outputs repeat the inputs. */
export const identityModel = (datatypes: readonly string[]): string => `
import triton_python_backend_utils as pb_utils

DATATYPES = ${JSON.stringify(datatypes)}

class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        for name in DATATYPES:
            config.add_input({"name": "in_" + name, "data_type": name, "dims": [-1, -1]})
            config.add_output({"name": "out_" + name, "data_type": name, "dims": [-1, -1]})
        config.set_max_batch_size(0)
        return config

    def execute(self, requests):
        responses = []
        for request in requests:
            outputs = []
            for name in DATATYPES:
                value = pb_utils.get_input_tensor_by_name(request, "in_" + name).as_numpy()
                outputs.append(pb_utils.Tensor("out_" + name, value))
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
`;

/** A model of one Python file, loaded under `name`. */
export function load(server: TritonServer, name: string, code: string): Promise<void> {
  return server.loadModel(name, { config: { backend: "python" }, files: { "1/model.py": code } });
}

export function command(value: object, text: readonly string[] | readonly Uint8Array[] = ["a"]): InferenceRequest {
  return {
    model: "command",
    inputs: [
      { name: "text", datatype: "BYTES", data: text },
      { name: "command", datatype: "BYTES", data: [JSON.stringify(value)] },
    ],
  };
}

export async function collect(stream: AsyncIterable<InferenceResponse>): Promise<unknown[]> {
  const outputs: unknown[] = [];
  for await (const response of stream) outputs.push(response.outputs.out?.data);
  return outputs;
}

export async function startOptions(): Promise<ResolvedServerOptions> {
  return { runtime: await findRuntime() };
}

/** Resolves when `condition` holds; fails after `timeout` milliseconds. */
export async function until(condition: () => boolean | Promise<boolean>, timeout = 5_000): Promise<void> {
  const end = Date.now() + timeout;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${timeout} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
