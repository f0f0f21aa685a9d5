import type { CommandSpec } from "../spec";
import * as models from "./models";
import * as runtime from "./runtime";

/** Every command, in the order in which --help lists them. Help, parsing and shells' completions all come from here. */
export const commands = [
  runtime.setup,
  runtime.doctor,
  models.chat,
  models.run,
  models.info,
  models.adapters,
  models.inspect,
  models.quantize,
  models.generate,
  runtime.bundle,
  runtime.remove,
  runtime.build,
  models.completion,
] as const satisfies readonly CommandSpec[];

export type CommandName = (typeof commands)[number]["name"];
