import { command, type OptionSpec } from "../spec";
import { json } from "./runtime";

const MODEL =
  "a Hugging Face folder, a GGUF file, or a model repository or a model in it (default: ./model_repository)";

/** The options for loading a model and for its requests, which `run` and `chat` share. */
const asking = {
  model: {
    type: "string",
    short: "m",
    value: "MODEL",
    takes: "file",
    help: "the model, instead of the first argument; with --model-repository, its name in the repository",
  },
  "model-repository": {
    type: "string",
    value: "PATH",
    takes: "folder",
    help: "a model repository: the folder that holds <model>/1/model.json",
  },
  lora: {
    type: "string",
    short: "l",
    multiple: true,
    value: "NAME=PATH",
    takes: "folder",
    help: "serve this adapter (a PEFT folder) under this name; may be repeated. NAME without a path is an adapter of the model repository; PATH without a name is named after its folder",
  },
  system: { type: "string", value: "TEXT", help: "the system message" },
  "max-tokens": {
    type: "string",
    default: "512",
    value: "N",
    help: "the maximum length of an answer, in tokens (default: 512)",
  },
  temperature: {
    type: "string",
    value: "T",
    help: "0 gives the most likely answer, higher values more variety (default: the model's own, else 1)",
  },
  "top-p": {
    type: "string",
    value: "P",
    help: "sample only from the most likely tokens, whose probabilities add up to P",
  },
  seed: { type: "string", value: "N", help: "the seed of sampling, for repeatable answers" },
  "sampling-parameters": {
    type: "string",
    value: "JSON",
    help: 'further sampling parameters under vLLM\'s names: \'{"top_k": 20, "stop": ["\\n"]}\'',
  },
  raw: {
    type: "boolean",
    default: false,
    help: "continue the text without the model's chat template (always so if the model has no template)",
  },
  context: {
    type: "string",
    value: "N",
    help: "the maximum length of a conversation in tokens (default: the model's own, or less if its memory does not suffice)",
  },
  engine: {
    type: "string",
    value: "JSON",
    help: 'further engine arguments under vLLM\'s names, for a folder or a file: \'{"dtype": "float32"}\'',
  },
  device: { type: "string", choices: ["cpu", "cuda"], help: "the runtime to use, if both are installed" },
  quiet: { type: "boolean", short: "q", default: false, help: "no progress and no notes on standard error" },
  verbose: { type: "boolean", short: "v", default: false, help: "show the log while the model loads" },
} as const satisfies Record<string, OptionSpec>;

export const run = command({
  name: "run",
  summary: "answer a prompt, or every line of a file",
  arguments: [
    { name: "MODEL", optional: true, takes: "file", help: MODEL },
    {
      name: "PROMPT",
      optional: true,
      repeated: true,
      takes: "file",
      help: "the prompt; - or no prompt reads standard input; several are joined by an empty line. A name that ends in .jsonl is a file of prompts",
    },
  ],
  description: [
    "Answers a prompt with the model's own chat template. Standard output gets only the answer, as it is generated; progress and notes go to standard error.",
    'With a file of prompts, one JSON object a line: {"prompt": "..."} or {"messages": [...]}, with "lora" (an adapter\'s name; null is the base model), "id", and sampling parameters under vLLM\'s names. Lines are answered concurrently. With --out the results are written to a file in the order of the lines; run the same command again to answer only the missing lines.',
  ],
  options: {
    ...asking,
    use: {
      type: "string",
      value: "NAME",
      help: "the adapter to use (default: the first --lora; for lines of a file that name none, the base model)",
    },
    image: {
      type: "string",
      multiple: true,
      value: "FILE",
      takes: "file",
      help: "an image (PNG, JPEG, WebP or GIF) that the prompt is about, for a vision model; may be repeated",
    },
    file: {
      type: "string",
      value: "FILE",
      takes: "file",
      help: "read the prompts from this file, whatever its name; - is standard input",
    },
    out: {
      type: "string",
      short: "o",
      value: "FILE",
      takes: "file",
      help: "write the results of a file of prompts here, and keep results that it already has (default: standard output)",
    },
    parallel: {
      type: "string",
      value: "N",
      default: "64",
      help: "how many lines of a file are answered at a time (default: 64)",
    },
    json: { ...json, help: "the answer as one JSON object: text, finish_reason, lora, usage, seconds" },
  },
  notes: [
    "Lines of a file that fail are written to FILE.failed.jsonl, the reason goes to standard error, and the next run tries them again. The exit code is 1 if a line failed.",
  ],
  examples: [
    'tritonode run ./model "What is the capital of France?" --max-tokens 12',
    'tritonode run ./model.gguf "Summarise this:" - < notes.txt',
    'tritonode run ./model "Name a fruit." --lora pirate=./loras/pirate --temperature 0',
    'tritonode run ./vision-model "What is in the picture?" --image photo.jpg',
    "tritonode run ./model prompts.jsonl --out results.jsonl --lora pirate=./loras/pirate",
  ],
});

export const chat = command({
  name: "chat",
  summary: "talk with a model and its adapters",
  arguments: [{ name: "MODEL", optional: true, takes: "file", help: MODEL }],
  description: [
    "Starts a conversation with a model, with its own chat template and streamed answers. From a pipe each line is a turn, and standard output gets only the answers.",
  ],
  options: {
    ...asking,
    load: { type: "string", value: "FILE", takes: "file", help: "continue a conversation that /save has written" },
    "no-history": {
      type: "boolean",
      default: false,
      help: "do not keep the lines that you type for the next conversation",
    },
    json: { ...json, help: "each answer as one JSON object a line" },
  },
  notes: [
    'The first --lora is used at the beginning. In the conversation, /help lists the commands. A line that ends in \\ continues on the next one, and so does a text between """ and """. Ctrl-C stops an answer; at the prompt it exits.',
    "At a terminal the last 500 lines that you typed are kept for the arrow keys of the next conversation, in ~/.local/state/tritonode/chat_history, which only you can read. A line that begins with a space is not kept. $TRITONODE_CHAT_HISTORY names another file; if it is empty, nothing is kept.",
  ],
  examples: [
    "tritonode chat ./model",
    'tritonode chat ./model.gguf --system "Answer in one sentence."',
    "tritonode chat ./model --lora pirate=./loras/pirate --lora json=./loras/json",
    "tritonode chat ./model_repository --lora alpaca",
  ],
});

export const generate = command({
  name: "generate",
  summary: "answer the prompts of a text file, with the tutorial client's flags",
  arguments: [],
  description: [
    "Runs every prompt of a text file (one a line) through a model, all at once, and writes the answers to a file. The options are those of the client script of Triton's vLLM backend, with a model repository instead of a server's URL.",
  ],
  options: {
    "model-repository": {
      type: "string",
      default: "model_repository",
      value: "PATH",
      takes: "folder",
      help: "the folder that holds <model>/1/model.json (default: model_repository)",
    },
    model: {
      type: "string",
      short: "m",
      default: "vllm_model",
      value: "NAME",
      help: "the model in it (default: vllm_model)",
    },
    "lora-name": {
      type: "string",
      short: "l",
      value: "NAME",
      help: "the adapter to answer with (default: the base model)",
    },
    verbose: { type: "boolean", short: "v", default: false, help: "show the log, and the results at the end" },
    "stream-timeout": {
      type: "string",
      short: "t",
      value: "SECONDS",
      help: "stop after this many seconds (default: no limit)",
    },
    offset: { type: "string", default: "0", value: "N", help: "number the requests from N (default: 0)" },
    "input-prompts": {
      type: "string",
      default: "prompts.txt",
      value: "FILE",
      takes: "file",
      help: "the prompts (default: prompts.txt)",
    },
    "results-file": {
      type: "string",
      default: "results.txt",
      value: "FILE",
      takes: "file",
      help: "where the answers go (default: results.txt)",
    },
    iterations: {
      type: "string",
      default: "1",
      value: "N",
      help: "how many times to run through the prompts (default: 1)",
    },
    "streaming-mode": { type: "boolean", short: "s", default: false, help: "stream the answers" },
    "exclude-inputs-in-outputs": { type: "boolean", default: false, help: "leave the prompt out of its answer" },
    "sampling-parameters": {
      type: "string",
      value: "JSON",
      help: "more of vLLM's sampling parameters (default: temperature 0.1, top_p 0.95, max_tokens 100)",
    },
    json: { ...json, help: "one JSON object a line for each request: id, text, or id, error" },
  },
  notes: ["The exit code is 1 if a request failed."],
});

export const info = command({
  name: "info",
  summary: "say what a model is, without loading it",
  arguments: [{ name: "MODEL", optional: true, takes: "file", help: MODEL }],
  description: [
    "Says what a model's files contain: architecture, parameters, format, context, chat template, adapters of a repository. With --load it also loads the model and reports what the engine chose.",
  ],
  options: {
    load: {
      type: "boolean",
      default: false,
      help: "load the model, and report load time, memory and engine arguments",
    },
    json,
  },
  examples: ["tritonode info ./model", "tritonode info ./model.gguf --json"],
});

export const inspect = command({
  name: "inspect",
  summary: "say whether an adapter can be served, and why not",
  arguments: [{ name: "ADAPTER", repeated: true, takes: "folder", help: "the adapter's folder, as PEFT writes it" }],
  description: [
    "Reads adapters' files and says whether they can be served: features, tensors, ranks, and with --model whether they fit that base model. Nothing is loaded. The exit code is 1 if an adapter can't be served.",
  ],
  options: {
    model: {
      type: "string",
      short: "m",
      value: "MODEL",
      takes: "file",
      help: "the base model: a folder or a GGUF file",
    },
    json: { ...json, help: "one JSON object a line for each adapter" },
  },
  examples: ["tritonode inspect ./loras/pirate --model ./model"],
});

export const adapters = command({
  name: "adapters",
  summary: "list the adapters of a repository or a folder",
  arguments: [
    {
      name: "PATH",
      optional: true,
      takes: "folder",
      help: "a model repository, a model in it, or a folder that contains adapters' folders (default: ./model_repository)",
    },
  ],
  description: [
    "Lists adapters with rank, size and modules, and says whether each can be served. Nothing is loaded. The exit code is 1 if an adapter can't be served.",
  ],
  options: { json: { ...json, help: "one JSON object a line for each adapter" } },
  examples: ["tritonode adapters ./model_repository", "tritonode adapters ./loras"],
});

export const quantize = command({
  name: "quantize",
  summary: "make a 4-bit or 8-bit copy of a Hugging Face folder",
  arguments: [
    { name: "SRC", takes: "folder", help: "the Hugging Face folder to read" },
    { name: "OUT", takes: "folder", help: "the folder to write" },
  ],
  description: [
    "Quantizes the linear layers of a Hugging Face folder to 4 or 8 bits, and writes a folder that can be loaded like any other. Adapters for the original model work with it. Then it measures the loss: the perplexity of a text before and after, computed by the engine itself.",
  ],
  options: {
    bits: { type: "string", default: "4", choices: ["4", "8"], help: "bits per weight (default: 4)" },
    text: {
      type: "string",
      value: "FILE",
      takes: "file",
      help: "the text to measure with (default: this package's README)",
    },
    "no-perplexity": { type: "boolean", default: false, help: "do not measure" },
    json: { ...json, help: "the result as one JSON object: out, bits, layers, before, after" },
  },
  notes: [
    "Weights are rounded to the nearest value, in groups of 32 (8 bits: up to 128) that share a scale; the format is compressed-tensors' W4A16 or W8A16. The embeddings and the output layer are not quantized.",
  ],
  examples: ["tritonode quantize ./llama ./llama-4bit --bits 4"],
});

export const completion = command({
  name: "completion",
  summary: "print a shell's completion script",
  arguments: [{ name: "SHELL", choices: ["bash", "zsh", "fish"], help: "bash, zsh or fish" }],
  description: ["Prints a shell's completion script for commands, options, their values, and files."],
  options: { json: { ...json, help: "the commands and options themselves, as one JSON object" } },
  examples: [
    "source <(tritonode completion bash)",
    'tritonode completion zsh > "$' + '{fpath[1]}/_tritonode"',
    "tritonode completion fish > ~/.config/fish/completions/tritonode.fish",
  ],
});
