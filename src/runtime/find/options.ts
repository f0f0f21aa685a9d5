import { didYouMean } from "../../common/unknown";
import { InvalidArgumentError } from "../../errors";
import { EXTRAS, type Extra, isExtra } from "../packages/requirements";
import type { Device } from "../runtime";

/** @throws {@link InvalidArgumentError} for an unknown device. */
export function checkDevice(device: string): asserts device is Device {
  if (device !== "cpu" && device !== "cuda") {
    throw new InvalidArgumentError(`device ${JSON.stringify(device)} is not known`, { hint: 'use "cpu" or "cuda"' });
  }
}

/** @throws {@link InvalidArgumentError} for a name that is not an extra. */
export function checkExtras(names: readonly string[]): Extra[] {
  return names.map((name) => {
    if (isExtra(name)) return name;
    const known = Object.keys(EXTRAS);
    throw new InvalidArgumentError(`extra ${JSON.stringify(name)} is not known${didYouMean(name, known)}`, {
      hint: `known are: ${known.join(", ")}`,
    });
  });
}
