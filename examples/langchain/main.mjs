// LangChain on a model in this process.
//
//   node examples/langchain/main.mjs <model repository> [adapter]
//
// Calling tools takes a parser that fits the model, in the repository's model.json; for the tutorial's model:
//   "enable_auto_tool_choice": true, "tool_call_parser": "hermes", "tool_strict_level": "parameter"
// A small model may fill its JSON with white space, unless it is told not to:
//   "structured_outputs_config": { "backend": "xgrammar", "disable_any_whitespace": true }
import { fileURLToPath } from "node:url";
import { StringOutputParser } from "@langchain/core/output_parsers";
import { ChatPromptTemplate } from "@langchain/core/prompts";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";

/** A chat model of LangChain: the base model or one of its adapters. */
export function chatModel(model, name, options = {}) {
  return new ChatOpenAI({ model: name, apiKey: "unused", configuration: { fetch: model.fetch }, ...options });
}

/** A chain: prompt, model, text. Streams. */
export async function translate(llm, text, onText) {
  const prompt = ChatPromptTemplate.fromMessages([
    ["system", "Translate into {language}."],
    ["user", "{text}"],
  ]);
  const chain = prompt.pipe(llm).pipe(new StringOutputParser());
  let whole = "";
  for await (const piece of await chain.stream({ language: "French", text })) {
    whole += piece;
    onText?.(piece);
  }
  return whole;
}

export async function callTool(llm, question, execute) {
  const weather = tool(execute, {
    name: "weather",
    description: "The weather in a city",
    schema: z.object({ city: z.enum(["Paris", "Berlin", "Rome"]) }),
  });
  const message = await llm.bindTools([weather], { tool_choice: "weather" }).invoke(question);
  return Promise.all(message.tool_calls.map((call) => weather.invoke(call)));
}

export const Trip = z.object({
  city: z.enum(["Paris", "Berlin", "Rome"]),
  days: z.number().int().min(1).max(9),
});

export function extract(llm, text) {
  return llm.withStructuredOutput(Trip, { name: "trip", method: "jsonSchema" }).invoke(text);
}

/** For a model that embeds (`runner: "pooling"`). */
export function embeddings(model, name) {
  return new OpenAIEmbeddings({ model: name, apiKey: "unused", configuration: { fetch: model.fetch } });
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { VllmModel } = await import("tritonode");
  const [modelRepository, adapter = "vllm_model"] = process.argv.slice(2);
  const model = await VllmModel.load({ modelRepository });
  try {
    const llm = chatModel(model, adapter, { maxTokens: 40 });
    console.log("invoke:", (await llm.invoke("What is the capital of France?")).content);
    process.stdout.write("chain: ");
    await translate(llm, "Good morning!", (text) => process.stdout.write(text));
    const results = await callTool(llm, "How is the weather in Rome?", ({ city }) => `It is sunny in ${city}.`);
    console.log("\ntool:", results[0]?.content);
    console.log("structured:", await extract(llm, "Three days in Rome, please."));
  } finally {
    await model.dispose();
  }
}
