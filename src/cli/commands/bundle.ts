import { bundle } from "../../runtime";
import { partSize } from "../../runtime/install/parts";
import { names, parse } from "../arguments";
import type { Run } from "../context";
import { watched } from "../setup-progress";
import { bundle as spec } from "../table/runtime";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const parts = values.parts === undefined ? undefined : partSize(values.parts);
  const output = positionals[0] ?? (parts === undefined ? "tritonode-runtime.tar" : "tritonode-runtime");
  const path = await watched(context, (onProgress) =>
    bundle({
      output,
      device: values.device,
      python: values.python,
      parts,
      useInstalled: values["use-installed"],
      torchIndex: values["torch-index"],
      extras: names(values.with),
      signal: context.signal,
      onProgress,
    }),
  );
  context.stdout.write(values.json ? `${JSON.stringify({ path })}\n` : `${path}\n`);
  return 0;
};
