import type { InferenceResponse } from "../server";
import type { ServerCore } from "../server/core";
import { fromRequestFailure } from "./failure";

/**
 * Runs a control operation of the model's backend (tritonode/triton/control.py) and resolves with its answer.
 *
 * @param options - `deadline` in milliseconds; default: none
 */
export async function control(
  core: ServerCore,
  model: string,
  operation: Readonly<Record<string, unknown>>,
  options: { deadline?: number } = {},
): Promise<unknown> {
  let response: InferenceResponse;
  try {
    response = await core
      .infer({
        model,
        inputs: [
          { name: "text_input", datatype: "BYTES", data: [""] },
          { name: "control_request", datatype: "BYTES", data: [JSON.stringify(operation)] },
        ],
        outputs: ["text_output"],
        ...options,
      })
      .response();
  } catch (error) {
    throw fromRequestFailure(error);
  }
  const answer = response.outputs["text_output"]?.data[0];
  return JSON.parse(typeof answer === "string" ? answer : "null");
}
