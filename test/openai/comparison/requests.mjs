// The requests of the comparison with `vllm serve`. `model` of the request's body is filled in where it says MODEL.

const messages = [{ role: "user", content: "Say something." }];
const greedy = { temperature: 0, max_tokens: 12 };
const city = {
  type: "object",
  properties: {
    city: { type: "string", enum: ["Paris", "Berlin"] },
    days: { type: "integer", minimum: 1, maximum: 9 },
  },
  required: ["city", "days"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "weather", description: "Weather", parameters: city } }];
const named = { type: "function", function: { name: "weather" } };
const format = { type: "json_schema", json_schema: { name: "trip", schema: city } };
const post = (what, path, body, options = {}) => ({ what, method: "POST", path, body, ...options });
const get = (what, path, options = {}) => ({ what, method: "GET", path, ...options });
const chat = (what, body) => post(what, "/v1/chat/completions", { messages, ...body });
const complete = (what, body) => post(what, "/v1/completions", body);

/** In this order: later ones rely on what earlier ones loaded. */
export const generation = ({ adapters, broken }) => [
  get("models", "/v1/models"),
  chat("chat, base model", greedy),
  chat("chat, base model by name", { model: "vllm_model", ...greedy }),
  chat("chat, adapter", { model: "lora_a", ...greedy }),
  chat("chat, another adapter", { model: "lora_b", ...greedy }),
  chat("chat, streamed", { model: "lora_a", ...greedy, stream: true }),
  chat("chat, streamed with usage", {
    model: "lora_a",
    ...greedy,
    stream: true,
    stream_options: { include_usage: true },
  }),
  chat("chat, n = 3", { n: 3, seed: 5, temperature: 0.8, max_tokens: 8 }),
  chat("chat, sampled with a seed", { model: "lora_b", seed: 11, temperature: 0.9, top_p: 0.9, max_tokens: 12 }),
  chat("chat, logprobs", { model: "lora_a", logprobs: true, top_logprobs: 2, temperature: 0, max_tokens: 4 }),
  chat("chat, stop, penalties, bias", {
    ...greedy,
    max_tokens: 24,
    stop: ["e"],
    presence_penalty: 0.5,
    frequency_penalty: 0.5,
    repetition_penalty: 1.1,
    logit_bias: { 5: -100 },
  }),
  chat("chat, max_completion_tokens, min_tokens, priority", {
    max_completion_tokens: 5,
    min_tokens: 5,
    priority: 0,
    temperature: 0,
  }),
  chat("chat, system message and parts", {
    messages: [
      { role: "system", content: "Be brief." },
      { role: "user", content: [{ type: "text", text: "Say something." }] },
    ],
    ...greedy,
  }),
  chat("chat, tool by name", { tools, tool_choice: named, seed: 3, max_tokens: 60 }),
  chat("chat, tool required", { tools, tool_choice: "required", seed: 3, max_tokens: 60 }),
  chat("chat, tool auto", { tools, tool_choice: "auto", ...greedy }),
  chat("chat, tool streamed", { tools, tool_choice: named, seed: 3, max_tokens: 60, stream: true }),
  chat("chat, tool result", {
    tools,
    messages: [
      ...messages,
      {
        role: "assistant",
        tool_calls: [{ id: "call_1", type: "function", function: { name: "weather", arguments: "{}" } }],
      },
      { role: "tool", tool_call_id: "call_1", content: "sunny" },
    ],
    ...greedy,
  }),
  chat("chat, JSON schema", { response_format: format, temperature: 0, max_tokens: 60 }),
  chat("chat, JSON schema, adapter, streamed", {
    model: "lora_a",
    response_format: format,
    temperature: 0,
    max_tokens: 60,
    stream: true,
  }),
  chat("chat, regex", { structured_outputs: { regex: "[a-c]{4}" }, temperature: 0 }),
  chat("chat, choice", { structured_outputs: { choice: ["yes", "no"] }, temperature: 0 }),
  complete("completion", { prompt: "Once upon", ...greedy }),
  complete("completion, adapter", { model: "lora_b", prompt: "Once upon", ...greedy }),
  complete("completion, several prompts", { prompt: ["Once", "Twice"], ...greedy }),
  complete("completion, token ids", { prompt: [5, 6, 7, 8], ...greedy }),
  complete("completion, echo and logprobs", {
    prompt: "Once upon",
    echo: true,
    logprobs: 1,
    temperature: 0,
    max_tokens: 3,
  }),
  complete("completion, streamed", { model: "lora_a", prompt: "Once upon", ...greedy, stream: true }),
  complete("completion, beam search", {
    prompt: "Once upon",
    use_beam_search: true,
    n: 2,
    temperature: 0,
    max_tokens: 4,
  }),
  post("responses", "/v1/responses", { model: "lora_a", input: "Hi", temperature: 0, max_output_tokens: 8 }),
  post("responses, streamed", "/v1/responses", {
    model: "lora_a",
    input: "Hi",
    temperature: 0,
    max_output_tokens: 8,
    stream: true,
  }),
  post("Anthropic messages", "/v1/messages", { model: "lora_a", messages, ...greedy }),
  post("Anthropic messages, streamed", "/v1/messages", { model: "lora_a", messages, ...greedy, stream: true }),
  post("Anthropic count_tokens", "/v1/messages/count_tokens", { model: "lora_a", messages }),
  post("tokenize a text", "/tokenize", { prompt: "Grüße, world" }),
  post("tokenize messages", "/tokenize", { messages, add_generation_prompt: true, return_token_strs: true }),
  post("detokenize", "/detokenize", { tokens: [1, 2, 3, 4] }),
  post("embeddings of a model that generates", "/v1/embeddings", { input: "x" }),
  chat("unknown model", { model: "nobody" }),
  chat("bad temperature", { temperature: -1 }),
  chat("bad top_p", { top_p: 3 }),
  chat("messages of a wrong type", { messages: 7 }),
  chat("empty messages", { messages: [] }),
  chat("unknown field", { no_such_field: 1, ...greedy }),
  chat("too many tokens requested", { max_tokens: 100000 }),
  chat("bad JSON schema", {
    response_format: { type: "json_schema", json_schema: { name: "x", schema: { type: "nonsense" } } },
  }),
  complete("prompt too long", { prompt: "word ".repeat(2000) }),
  complete("empty prompt", { prompt: "" }),
  complete("streamed refusal", { prompt: "word ".repeat(2000), stream: true }),
  post("no JSON", "/v1/chat/completions", undefined, { raw: "{" }),
  post("wrong content type", "/v1/chat/completions", undefined, { raw: "x", contentType: "text/plain" }),
  post("no body", "/v1/chat/completions", undefined, {}),
  get("wrong method", "/v1/chat/completions"),
  get("no such route", "/v1/nothing"),
  get("trailing slash", "/v1/models/"),
  post("load an adapter", "/v1/load_lora_adapter", { lora_name: "late", lora_path: adapters.lora_all }, { text: true }),
  get("models, with it", "/v1/models"),
  chat("chat with it", { model: "late", ...greedy }),
  post("load it twice", "/v1/load_lora_adapter", { lora_name: "late", lora_path: adapters.lora_all }),
  post("load one that is not there", "/v1/load_lora_adapter", { lora_name: "gone", lora_path: "/no/such/folder" }),
  post("load a broken one", "/v1/load_lora_adapter", { lora_name: "bad", lora_path: broken.bad_rank.path }),
  post("load under the base model's name", "/v1/load_lora_adapter", {
    lora_name: "vllm_model",
    lora_path: adapters.lora_all,
  }),
  post("unload it", "/v1/unload_lora_adapter", { lora_name: "late" }, { text: true }),
  chat("chat with it afterwards", { model: "late", ...greedy }),
  post("unload an unknown one", "/v1/unload_lora_adapter", { lora_name: "nobody" }),
  get("health", "/health"),
  get("ping", "/ping"),
  get("version", "/version"),
  get("load", "/load"),
  get("metrics", "/metrics", { metrics: true }),
  get("OpenAPI description", "/openapi.json"),
];

const texts = ["The sea is blue.", "Ships sail on it."];

export const pooling = () => [
  get("models", "/v1/models"),
  post("embeddings", "/v1/embeddings", { input: texts }),
  post("embeddings, adapter", "/v1/embeddings", { model: "lora_a", input: texts }),
  post("embeddings, base64", "/v1/embeddings", { input: texts[0], encoding_format: "base64" }, { opaque: true }),
  post("embeddings of messages", "/v1/embeddings", { messages }),
  post("pooling", "/pooling", { input: texts[0] }),
  post("score", "/score", { text_1: texts[0], text_2: texts }),
  post("rerank", "/v1/rerank", { query: texts[0], documents: texts, top_n: 1 }),
  post("dimensions it has not", "/v1/embeddings", { input: texts, dimensions: 3 }),
  post("embeddings, unknown model", "/v1/embeddings", { model: "nobody", input: "x" }),
  chat("chat with a model that embeds", {}),
];
