import { didYouMean } from "../common/unknown";
import { InvalidArgumentError, ModelLoadError, TritonodeError, TritonServerError } from "../errors";
import { loadHint, plainReason } from "./load-hints";
import { plainRequestReason, requestHint } from "./request-reasons";

/** The request named an adapter that the model does not serve. `cause` holds Triton's own message. */
export class AdapterNotFoundError extends TritonodeError {
  /** The name in the request. */
  readonly adapter: string;
  /** The adapters that the model serves. */
  readonly available: readonly string[];

  constructor(adapter: string, available: readonly string[], options?: { cause?: unknown }) {
    super("ERR_ADAPTER_NOT_FOUND", `there is no adapter '${adapter}'${didYouMean(adapter, available)}`, {
      hint:
        available.length === 0
          ? "the model serves no adapters: load one with model.adapters.load(name, path)"
          : `the model serves ${available.map((name) => `'${name}'`).join(", ")}`,
      ...options,
    });
    this.adapter = adapter;
    this.available = available;
  }
}

/** A request named an adapter, but the model was loaded without `enable_lora`. */
export class LoraDisabledError extends TritonodeError {
  constructor(options?: { cause?: unknown }) {
    super("ERR_LORA_DISABLED", "the model was loaded without LoRA", {
      hint: 'set "enable_lora": true in model.json (or `loras` in VllmModel.load) and load the model again',
      ...options,
    });
  }
}

/** An adapter cannot be loaded from its files; `message` says which adapter and why. */
export class AdapterLoadError extends TritonodeError {
  constructor(message: string, options?: { hint?: string; cause?: unknown }) {
    super("ERR_ADAPTER_LOAD", message, {
      hint: "see what is wrong with its files: model.adapters.inspect(path)",
      ...options,
    });
  }
}

/** The file `multi_lora.json` is missing although the model has LoRA on. */
export class MultiLoraMissingError extends ModelLoadError {
  constructor(message: string, options?: { cause?: unknown }) {
    super(message, {
      code: "ERR_MULTI_LORA_MISSING",
      hint: 'put multi_lora.json ({ "name": "path", ... }) beside model.json, or set "enable_lora": false',
      ...options,
    });
  }
}

// The contract of Triton's vLLM backend fixes these messages: upstream's tests compare them.
const unknownLora = /^LoRA (.*) is not supported, we currently support \[(.*)\]$/s;
const generating = /^Error generating stream: /;
const missingLoraFile = /FileNotFoundError: (Triton backend cannot find .*?\.json\.)/s;
const unsupportedVllm = /^vLLM('s version)? \S+ is not /;
const leftOut =
  /^(.*(?:this runtime was made without it|has no kernels for this processor).*); (run: npx tritonode setup .*)$/s;
const backendFailure = /(?:^|: )(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception)): (.*?)(?:\n\nAt:\n|$)/s;

const isGone = /^adapter '.*': there is no folder /s;

/** What to do about an adapter whose folder does not exist. */
export function adapterFolderHint(): string {
  return `name the folder that PEFT wrote (adapter_config.json is in it); relative paths start at ${process.cwd()}`;
}

/** Converts the error of a request to a more specific one, if there is one. */
export function fromRequestFailure(error: unknown): unknown {
  if (!(error instanceof TritonServerError)) return error;
  const { message } = error;
  const lora = unknownLora.exec(message);
  if (lora !== null) {
    const names = [...(lora[2] ?? "").matchAll(/'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"/g)];
    return new AdapterNotFoundError(
      lora[1] ?? "",
      names.map((name) => name[1] ?? name[2] ?? ""),
      { cause: error },
    );
  }
  if (message === "LoRA feature is not enabled.") return new LoraDisabledError({ cause: error });
  // Triton's own vLLM backend logs errors in sampling parameters, and continues without the parameters.
  if (message === "Error generating stream: 'NoneType' object has no attribute 'lora_name'") {
    return new InvalidArgumentError("the model's backend does not take these sampling parameters", {
      hint: "its log says why: pass `logger` to VllmModel.load",
      cause: error,
    });
  }
  if (error.tritonCode === "INVALID_ARG") {
    const text = message.replace(generating, "");
    return text.startsWith("adapter '")
      ? new AdapterLoadError(text, { cause: error, ...(isGone.test(text) ? { hint: adapterFolderHint() } : {}) })
      : new InvalidArgumentError(plainRequestReason(text), { cause: error, hint: requestHint(text) });
  }
  return error;
}

/** Converts the error of a load: the message is Python's error, and `cause` is Triton's whole report. */
export function fromLoadFailure(model: string, error: unknown): unknown {
  if (error instanceof ModelLoadError && error.code === "ERR_STUB_START") return error;
  const report = error instanceof ModelLoadError ? error.cause : error;
  if (!(report instanceof TritonServerError)) return error;
  const missing = missingLoraFile.exec(report.message);
  if (missing?.[1] !== undefined) return new MultiLoraMissingError(missing[1], { cause: report });
  const python = backendFailure.exec(report.message);
  const reason = python?.[2] ?? report.message;
  if (unsupportedVllm.test(reason)) {
    return new ModelLoadError(reason, {
      code: "ERR_VLLM_VERSION",
      cause: report,
      hint: "docs/reference/versions.md lists the versions and what was run on each",
    });
  }
  const lacking = leftOut.exec(reason);
  if (lacking?.[1] !== undefined) {
    return new ModelLoadError(`the model '${model}' could not be loaded: ${lacking[1]}`, {
      code: "ERR_RUNTIME_INCOMPLETE",
      cause: report,
      hint: lacking[2],
    });
  }
  return new ModelLoadError(`the model '${model}' could not be loaded: ${plainReason(reason)}`, {
    cause: report,
    hint: loadHint(reason),
  });
}
