// The official OpenAI client on a model in this process: no server, no port, no key.
//
//   node examples/openai/main.mjs <model repository> [adapter]
//
// Calling tools takes a parser that fits the model, in the repository's model.json; for the tutorial's model:
//   "enable_auto_tool_choice": true, "tool_call_parser": "hermes", "tool_strict_level": "parameter"
// A small model may fill its JSON with white space, unless it is told not to:
//   "structured_outputs_config": { "backend": "xgrammar", "disable_any_whitespace": true }
import { fileURLToPath } from "node:url";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

/** The client, unmodified: `fetch` is all it takes. */
export function connect(model) {
  return new OpenAI({ apiKey: "unused", fetch: model.fetch });
}

/** The base model and its adapters are all models here. */
export async function listModels(openai) {
  const names = [];
  for await (const { id } of openai.models.list()) names.push(id);
  return names;
}

export async function chat(openai, model, question, options = {}) {
  const completion = await openai.chat.completions.create({
    model,
    messages: [{ role: "user", content: question }],
    ...options,
  });
  return completion.choices[0].message.content;
}

export async function stream(openai, model, question, onText, options = {}) {
  const chunks = await openai.chat.completions.create({
    model,
    messages: [{ role: "user", content: question }],
    stream: true,
    ...options,
  });
  for await (const chunk of chunks) onText(chunk.choices[0]?.delta.content ?? "");
}

const weather = {
  type: "function",
  function: {
    name: "weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", enum: ["Paris", "Berlin", "Rome"] } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

/** Lets the model call a tool, gives it the result, and takes its answer. */
export async function useTool(openai, model, question, callTool, options = {}) {
  const messages = [{ role: "user", content: question }];
  const request = { model, messages, tools: [weather], ...options };
  const { choices } = await openai.chat.completions.create({
    ...request,
    tool_choice: { type: "function", function: { name: "weather" } },
  });
  const { message } = choices[0];
  messages.push(message);
  for (const call of message.tool_calls ?? []) {
    const content = await callTool(call.function.name, JSON.parse(call.function.arguments));
    messages.push({ role: "tool", tool_call_id: call.id, content });
  }
  const answer = await openai.chat.completions.create({ ...request, tool_choice: "none" });
  return { calls: message.tool_calls ?? [], answer: answer.choices[0].message.content };
}

export const Review = z.object({
  sentiment: z.enum(["good", "bad", "mixed"]),
  stars: z.number().int().min(1).max(5),
});

/** An answer that is held to a schema while it is generated. */
export async function review(openai, model, text, options = {}) {
  const completion = await openai.chat.completions.parse({
    model,
    messages: [{ role: "user", content: `Rate this review: ${text}` }],
    response_format: zodResponseFormat(Review, "review"),
    ...options,
  });
  return completion.choices[0].message.parsed;
}

/** For a model that embeds (`runner: "pooling"`). */
export async function embed(openai, model, texts) {
  const { data } = await openai.embeddings.create({ model, input: texts });
  return data.map(({ embedding }) => embedding);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { VllmModel } = await import("tritonode");
  const [modelRepository, adapter = "vllm_model"] = process.argv.slice(2);
  const model = await VllmModel.load({ modelRepository });
  try {
    const openai = connect(model);
    console.log("models:", await listModels(openai));
    console.log("chat:", await chat(openai, adapter, "What is the capital of France?", { max_tokens: 40 }));
    process.stdout.write("stream: ");
    await stream(openai, adapter, "Name three rivers.", (text) => process.stdout.write(text), { max_tokens: 40 });
    const sunny = (_name, { city }) => `It is sunny in ${city}.`;
    console.log("\ntool:", await useTool(openai, adapter, "How is the weather in Rome?", sunny, { max_tokens: 100 }));
    console.log("structured:", await review(openai, adapter, "Lovely place, slow service.", { max_tokens: 40 }));
  } finally {
    await model.dispose();
  }
}
