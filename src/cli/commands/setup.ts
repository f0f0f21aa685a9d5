import { planLines, planSetup, setup } from "../../runtime";
import { names, parse } from "../arguments";
import type { Run } from "../context";
import { watched } from "../setup-progress";
import { setup as spec } from "../table/runtime";
import { styler } from "../terminal";

export const run: Run = async (args, context) => {
  const { values } = parse(spec, args);
  const { stdout } = context;
  const line = (event: string, value: object) => stdout.write(`${JSON.stringify({ event, ...value })}\n`);
  const options = {
    device: values.device,
    directory: values.dir,
    python: values.python,
    useInstalled: values["use-installed"],
    offline: values.offline,
    triton: values.triton,
    torchIndex: values["torch-index"],
    extras: [...names(values.with), ...(values.full ? ["full"] : [])],
    installer: values.installer,
    signal: context.signal,
  };
  if (values["dry-run"]) {
    const plan = await planSetup(options);
    if (values.json) line("plan", plan);
    else stdout.write(`${planLines(plan).join("\n")}\n`);
    return 0;
  }
  const started = performance.now();
  const seconds = () => Math.round((performance.now() - started) / 100) / 10;
  if (values.json) {
    const runtime = await setup({
      ...options,
      onPlan: (plan) => line("plan", plan),
      onProgress: (progress) => line("progress", progress),
    });
    line("ready", { ...runtime, seconds: seconds() });
    return 0;
  }
  const runtime = await watched(context, (onProgress, log) =>
    setup({
      ...options,
      onPlan: (plan) => {
        for (const text of planLines(plan)) log(text);
      },
      onProgress,
    }),
  );
  const style = styler(stdout, context.environment);
  stdout.write(
    `${style("green", "ready")}: ${runtime.directory}\n` +
      `Triton ${runtime.triton.version}, vLLM ${runtime.vllmVersion}, Python ${runtime.pythonVersion}, ` +
      `device ${runtime.device} (${seconds().toFixed(1)} s)\n`,
  );
  return 0;
};
