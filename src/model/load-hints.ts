import { shellWord } from "../common/shell";

/** A reason why a load fails, from vLLM or this package's backend, and what to do about it. */
interface Hint {
  readonly reason: RegExp;
  readonly hint: string | ((match: RegExpExecArray) => string);
}

/** The first entry that matches is used. docs/errors.md has the same list for readers. */
const hints: readonly Hint[] = [
  {
    reason:
      /cached snapshot folder|Repo id must be in the form|is not a local folder|outgoing traffic has been disabled/,
    hint: "engine.model is neither a folder here nor a model in the local hub cache: give the path of a model's folder or .gguf file; nothing is downloaded",
  },
  {
    reason: /Invalid repository ID or local directory/,
    hint: "engine.model must be a folder with config.json, or a .gguf file",
  },
  {
    reason: /greater than the derived max_model_len/,
    hint: "leave max_model_len out, or lower it to the derived one",
  },
  {
    reason: /FP8 KV cache/i,
    hint: "leave kv_cache_dtype out: this processor or this model's head size has no kernels for an fp8 cache (docs/reference/formats.md)",
  },
  {
    reason: /KV cache is needed, which is larger than|estimated maximum model length/,
    hint: "lower max_model_len, or raise kv_cache_memory_bytes (on a GPU: gpu_memory_utilization)",
  },
  {
    reason: /No available memory for the cache blocks/,
    hint: "raise kv_cache_memory_bytes (on a GPU: gpu_memory_utilization), or lower max_model_len",
  },
  {
    reason: /kv cache allocation is less than requested/,
    hint: "lower kv_cache_memory_bytes below the free memory that the message names",
  },
  {
    reason: /out of memory|Cannot allocate memory|DefaultCPUAllocator/i,
    hint: "take a smaller or a quantised model, lower max_model_len, max_num_seqs or max_loras, or give the process more memory",
  },
  {
    reason: /rank \d+ is greater than max_lora_rank 512\b/,
    hint: "vLLM serves adapters up to rank 512: train it with a smaller rank, or leave it out",
  },
  {
    reason: /max_lora_rank/,
    hint: "set max_lora_rank to 1, 8, 16, 32, 64, 128, 256, 320 or 512, at least the largest rank of the adapters",
  },
  {
    reason: /^adapter '[^']*' \((.+?)\): /,
    hint: ([, path = "PATH"]) =>
      `list all problems of the adapter with: npx tritonode inspect ${shellWord(path)} --model MODEL; correct its files, or leave it out`,
  },
  {
    reason: /engine argument 'dtype'/,
    hint: 'use "auto", "float32", "bfloat16" or "float16"',
  },
  {
    reason: /knows no engine argument|engine argument '/,
    hint: "correct it in `engine` (model.json); the argument and what it takes are in the message",
  },
  {
    reason: /architectures? .* (?:are|is) not supported|does not recognize this architecture|model type `/,
    hint: "this vLLM has no such architecture: use another model, or a newer vLLM (docs/reference/versions.md)",
  },
  {
    reason: /tokenizer|Tokenizer/,
    hint: "put tokenizer.json and tokenizer_config.json into the model's folder, or name their folder with the engine argument tokenizer",
  },
  {
    reason: /size mismatch|shape mismatch|must match the size|exceeds dimension size|narrow\(\)/,
    hint: "config.json and the weights are of different models: take both from one place",
  },
  {
    reason: /safetensors|SafetensorError|deserializing header|not fully covered/i,
    hint: "the weights are damaged or half downloaded: get the file again",
  },
  {
    reason: /Cannot find any model weights/,
    hint: "the folder has no weights: get its *.safetensors files",
  },
  {
    reason: /[Qq]uantization|config file for (awq|gptq|bitsandbytes|fp8)/,
    hint: "leave the engine argument quantization out: it is read from config.json; docs/reference/formats.md lists what is served",
  },
  {
    reason: /attention heads .* divisible|tensor.parallel/i,
    hint: "tensor_parallel_size must divide the model's attention heads, and there must be as many devices",
  },
];

const general =
  "the log says more: pass `logger` to VllmModel.load (on the command line --verbose), or run: npx tritonode doctor";

/** What to do about a load that failed. */
export function loadHint(reason: string): string {
  for (const { reason: known, hint } of hints) {
    const match = known.exec(reason);
    if (match !== null) return typeof hint === "string" ? hint : hint(match);
  }
  return general;
}

/**
 * Returns the engine's own reason, without pydantic's additions (the type of the error, the inputs, a link) and pip commands.
 */
export function plainReason(reason: string): string {
  const pydantic = /^\d+ validation errors? for \w+\n([\s\S]*)$/.exec(reason);
  if (pydantic?.[1] === undefined) return shorten(reason.trim());
  const body = pydantic[1]
    .replace(/ *\[type=[\s\S]*$/, "")
    .replace(/^\s*Value error, /, "")
    .trim();
  return shorten(body);
}

/** Removes lists of everything that vLLM supports, and advice that applies only to its server. */
function shorten(text: string): string {
  return (
    text
      // The server sees a repository through a link in its private folder, which would only confuse a reader.
      .replace(/\S*\/tritonode-\d+-\w+\/repositories\/\w+\/(?=\S+\/model\.json: )/, "")
      .replace(/ Supported architectures: dict_keys\([\s\S]*$/, "")
      .replace(/\nYou can update Transformers with [\s\S]*$/, "")
      .replace(/ To allow overriding this maximum, set the env var [\s\S]*$/, "")
  );
}
