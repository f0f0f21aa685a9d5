// The Vercel AI SDK on a model in this process; each adapter is a model of the provider.
//
//   node examples/ai-sdk/main.mjs <model repository> [adapter]
//
// Calling tools takes a parser that fits the model, in the repository's model.json; for the tutorial's model:
//   "enable_auto_tool_choice": true, "tool_call_parser": "hermes", "tool_strict_level": "parameter"
// A small model may fill its JSON with white space, unless it is told not to:
//   "structured_outputs_config": { "backend": "xgrammar", "disable_any_whitespace": true }
import { fileURLToPath } from "node:url";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { createTritonode } from "tritonode/ai-sdk";
import { z } from "zod";

/** `provider("alpaca")` is the adapter alpaca on the base model, `provider()` the base model. */
export function createProvider(model) {
  return createTritonode(model);
}

export async function ask(provider, name, prompt, options = {}) {
  const { text, usage } = await generateText({ model: provider(name), prompt, ...options });
  return { text, usage };
}

export async function stream(provider, name, prompt, onText, options = {}) {
  const { textStream, usage } = streamText({ model: provider(name), prompt, ...options });
  for await (const text of textStream) onText(text);
  return await usage;
}

/** An object by a zod schema; vLLM holds the answer to it while it is generated. */
export async function extract(provider, name, prompt, options = {}) {
  const schema = z.object({ city: z.enum(["Paris", "Berlin", "Rome"]), days: z.number().int().min(1).max(9) });
  const { object } = await generateObject({ model: provider(name), schema, prompt, ...options });
  return object;
}

/** A tool loop: the first step calls the tool, the second answers with its result. */
export async function useTool(provider, name, prompt, callTool, options = {}) {
  const inputSchema = z.object({ city: z.enum(["Paris", "Berlin", "Rome"]) });
  const { text, steps } = await generateText({
    model: provider(name),
    prompt,
    tools: { weather: tool({ description: "The weather in a city", inputSchema, execute: callTool }) },
    prepareStep: ({ stepNumber }) => ({
      toolChoice: stepNumber === 0 ? { type: "tool", toolName: "weather" } : "none",
    }),
    stopWhen: stepCountIs(2),
    ...options,
  });
  return {
    text,
    calls: steps.flatMap(({ toolCalls }) => toolCalls),
    results: steps.flatMap((step) => step.toolResults),
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { VllmModel } = await import("tritonode");
  const [modelRepository, adapter = "vllm_model"] = process.argv.slice(2);
  const model = await VllmModel.load({ modelRepository });
  try {
    const provider = createProvider(model);
    const short = { maxOutputTokens: 40 };
    console.log("generateText:", (await ask(provider, adapter, "What is the capital of France?", short)).text);
    process.stdout.write("streamText: ");
    await stream(provider, adapter, "Name three rivers.", (text) => process.stdout.write(text), short);
    console.log("\ngenerateObject:", await extract(provider, adapter, "Three days in Rome, please.", short));
    const sunny = ({ city }) => `It is sunny in ${city}.`;
    console.log(
      "tool loop:",
      await useTool(provider, adapter, "How is the weather in Rome?", sunny, { maxOutputTokens: 100 }),
    );
  } finally {
    await model.dispose();
  }
}
