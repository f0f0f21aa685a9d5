import { InvalidArgumentError } from "../errors";
import type { Device } from "../runtime";

/** The value of --device. @throws {@link InvalidArgumentError} */
export function device(text: string): Device {
  if (text === "cpu" || text === "cuda") return text;
  throw new InvalidArgumentError(`--device ${JSON.stringify(text)} is not known`, { hint: "use cpu or cuda" });
}
