import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { callback } from "../common/callbacks";
import { checkLimit } from "../common/duration";
import { InvalidArgumentError } from "../errors";
import { packageRoot } from "../package-root";
import { requireGpu } from "../runtime";
import type { TritonServer } from "../server";
import { ServerCore } from "../server/core";
import { toTritonServer } from "../server/triton-server";
import type { WarmChildKeeper } from "../server/warm-child";
import { Adapters } from "./adapters";
import { Backend } from "./backend";
import { fromLoadFailure, fromRequestFailure } from "./failure";
import { GenerationStream } from "./generation";
import { type LoadProgress, loggerFor, type PrewarmOptions, resolveRuntime, type VllmModelOptions } from "./load";
import { checkLoadOptions } from "./load-options";
import { keepLoadTimes, LoadClock, readLoadTimes } from "./load-times";
import type { OpenAiRoutes } from "./openai/call";
import { type ChatStream, chat, chatStream } from "./openai/chat";
import type { ChatMessage, ChatOptions, ChatResult, StructuredAnswer } from "./openai/chat-types";
import { type EmbedOptions, type EmbedResult, embed } from "./openai/embed";
import { createFetch } from "./openai/fetch";
import type { Structure } from "./openai/schema";
import { detokenize, type TokenizeOptions, type TokenizeResult, tokenize } from "./openai/tokenize";
import type { CallOptions } from "./options";
import { prewarm, type WarmChild } from "./prewarm";
import { locateModel } from "./repository";
import { type GenerateOptions, prepareRequest } from "./request";
import { type GenerateResult, ResponseReader } from "./results";
import { abortError, ServedModel } from "./served-model";

const defaultName = "vllm_model";

/** Facts about a loaded model. */
export interface ModelInfo {
  readonly model: string;
  readonly vllmVersion: string;
  /** The Python child's process id. */
  readonly pid: number;
  readonly loadSeconds: number;
  /** `tokens` that the KV cache holds, its size where it is known, and the longest sequence. */
  readonly kvCache: { readonly tokens: number; readonly bytes: number | undefined; readonly maxModelLen: number };
  /** vLLM's own count. */
  readonly requests: { readonly running: number; readonly waiting: number };
  readonly enableLora: boolean;
  /** Adapters read from disk since the start, evicted from host memory, and in it now; undefined without LoRA. */
  readonly adapters: { readonly loads: number; readonly evictions: number; readonly inMemory: number } | undefined;
  /** The engine arguments that were used, defaults included. */
  readonly engineArgs: Readonly<Record<string, unknown>>;
}

/** How {@link VllmModel.dispose} treats requests that run. */
export interface DisposeOptions {
  /** Let them finish instead of cancelling them. */
  drain?: boolean | undefined;
  /** Milliseconds after which the requests that are still running are cancelled all the same. Default: no limit. */
  deadline?: number | undefined;
}

/**
 * A vLLM model with its LoRA adapters, served by Triton inside this process.
 *
 * ```ts
 * await using model = await VllmModel.load({ modelRepository: "./model_repository" });
 * const { text } = await model.generate("Hello, my name is", { lora: "alpaca", max_tokens: 100 });
 * ```
 */
export class VllmModel implements AsyncDisposable {
  /** The model's name in Triton. */
  readonly name: string;
  /** The adapters that it serves. */
  readonly adapters: Adapters;
  /**
   * A WHATWG `fetch` into vLLM's own OpenAI-compatible application, without a network: give it to the OpenAI client, the
   * AI SDK or LangChain. Any host will do; a relative URL is relative to `/v1/`. Errors of vLLM are HTTP statuses; where
   * there is no answer at all it rejects with a TypeError whose `cause` says why ({@link EngineDiedError}, ...).
   */
  readonly fetch: typeof globalThis.fetch;
  readonly #routes: OpenAiRoutes;
  /** The Triton server that serves the model: its metrics, its statistics, and other models. */
  readonly server: TritonServer;
  readonly #core: ServerCore;
  readonly #served: ServedModel;
  readonly #backend: Backend;
  #warm: WarmChildKeeper | undefined;
  #disposed: Promise<void> | undefined;

  /**
   * Loads a model from a model repository (the tutorial's folder, as it is) or from the same settings as objects.
   * Resolves when it has answered its first tokens, adapters included.
   *
   * @throws {@link InvalidArgumentError} for a bad option or folder, {@link RuntimeMissingError} where no runtime is
   *   installed, {@link AddonLoadError}, {@link PackageFilesError} where a bundler moved the code away from its files,
   *   {@link ModelLoadError} with the backend's reason, {@link MultiLoraMissingError}, {@link RequestCancelledError} when
   *   the signal aborts it.
   */
  static async load(options: VllmModelOptions): Promise<VllmModel> {
    checkLoadOptions(options);
    const { signal, onProgress } = options;
    throwIfAborted(signal);
    const backend = backendFolder(options.backend);
    const name =
      options.engine === undefined ? locateModel(options.modelRepository, options.model).name : nameOf(options);
    // First: if this machine can't load the addon, no other error matters.
    ServerCore.checkAddon();
    const runtime = await resolveRuntime(options);
    requireGpu(runtime);
    const began = performance.now();
    const clock = onProgress === undefined ? undefined : new LoadClock(await readLoadTimes(options, runtime.device));
    const report = (progress: Omit<LoadProgress, "elapsed" | "fraction" | "remaining">) => {
      if (onProgress === undefined || clock === undefined) return;
      const elapsed = performance.now() - began;
      const far = clock.step(progress.phase, elapsed, progress.done, progress.total);
      callback("onProgress", onProgress, () => onProgress({ ...progress, elapsed, ...far }));
    };
    report({ phase: "start" });
    const logger = loggerFor(name, options.logger, ({ phase, name: adapter, done, total }) =>
      report({
        phase,
        ...(adapter === undefined ? {} : { adapter }),
        ...(done === undefined ? {} : { done }),
        ...(total === undefined ? {} : { total }),
      }),
    );
    const core = await ServerCore.start({
      runtime,
      logger,
      backends: { vllm: backend },
    });
    try {
      throwIfAborted(signal);
      const model = new VllmModel(name, core, await ServedModel.load(core, name, options));
      await model.#backend.open();
      if (clock !== undefined) await keepLoadTimes(options, runtime.device, clock.times(performance.now() - began));
      if (options.prewarm === true) {
        model.#warm = core.keepWarmChild("vllm", options.environment ?? {});
        model.#warm.keep();
      }
      return model;
    } catch (error) {
      await core.stop().catch(() => {});
      throw fromLoadFailure(name, error);
    }
  }

  /**
   * Starts a Python child that imports torch and vLLM and waits, so that later loads need not. It is taken by the next
   * load whose options give the same `environment` (and while this process's own is unchanged), and by the restart of a
   * model after a crash; then another one is made when the models are idle. There is one for each environment, however
   * often this is called. It takes about 400 MB of memory while it waits.
   *
   * ```ts
   * await using warm = await VllmModel.prewarm();
   * const model = await VllmModel.load({ modelRepository: "./model_repository" });
   * ```
   *
   * @returns its handle, when it has imported everything
   * @throws {@link InvalidArgumentError} for a bad option, {@link RuntimeMissingError} where no runtime is installed or
   *   (`ERR_RUNTIME_BROKEN`) the child can't import, {@link ModelLoadError} (`ERR_LOAD_TIMEOUT`),
   *   {@link RequestCancelledError} when the signal aborts it.
   */
  static prewarm(options: PrewarmOptions = {}): Promise<WarmChild> {
    return prewarm(options);
  }

  private constructor(name: string, core: ServerCore, served: ServedModel) {
    this.name = name;
    this.server = toTritonServer(core);
    this.#core = core;
    this.#served = served;
    this.#backend = new Backend(core, name);
    this.adapters = new Adapters((operation) => this.#backend.control(operation));
    this.fetch = createFetch(this.#backend);
    this.#routes = {
      fetch: this.fetch,
      adapterNames: async () => (await this.adapters.list()).map((adapter) => adapter.name),
    };
  }

  /** Whether the model takes requests: false from the moment its child is gone. */
  async isReady(): Promise<boolean> {
    return this.#disposed === undefined && (await this.#core.isModelReady(this.name));
  }

  /**
   * Generates the whole answer to a prompt.
   *
   * @throws {@link InvalidArgumentError} for a bad prompt, option or sampling parameter (named), {@link AdapterNotFoundError},
   *   {@link LoraDisabledError}, {@link DeadlineExceededError}, {@link RequestCancelledError}, {@link EngineDiedError},
   *   {@link DisposedError}.
   */
  async generate(prompt: string, options: GenerateOptions = {}): Promise<GenerateResult> {
    const stream = this.#backend.send(prepareRequest(prompt, options, false));
    try {
      const reader = new ResponseReader();
      reader.choices(await stream.response());
      return reader.result(stream.id);
    } catch (error) {
      throw fromRequestFailure(error);
    }
  }

  /**
   * Generates an answer and gives it piece by piece. Leaving the loop early cancels the request in Triton and in vLLM.
   * Pieces that wait unread are joined, so a slow reader costs neither memory nor the other streams' time.
   *
   * Errors are those of {@link VllmModel.generate}: bad arguments throw at once, the rest rejects while iterating.
   */
  stream(prompt: string, options: GenerateOptions = {}): GenerationStream {
    return new GenerationStream(this.#backend.send(prepareRequest(prompt, options, true)));
  }

  /**
   * Answers a conversation, through the model's chat template. With `structured` (a zod schema or a JSON schema) the
   * answer is held to the schema and `object` is the answer, typed.
   *
   * @throws as {@link VllmModel.generate}; {@link StructuredOutputError} for an answer that was cut off,
   *   {@link HttpStatusError} for other errors of vLLM's application.
   */
  chat<S extends Structure | undefined = undefined>(
    messages: readonly ChatMessage[],
    options: ChatOptions<S> = {},
  ): Promise<ChatResult<StructuredAnswer<S>>> {
    return chat(this.#routes, messages, options);
  }

  /**
   * Answers a conversation piece by piece; leaving the loop early cancels the request. Bad arguments throw at once, other
   * errors while iterating.
   */
  chatStream<S extends Structure | undefined = undefined>(
    messages: readonly ChatMessage[],
    options: ChatOptions<S> = {},
  ): ChatStream<StructuredAnswer<S>> {
    return chatStream(this.#routes, messages, options);
  }

  /** Embeds texts, with a model that embeds (engine argument `runner: "pooling"` where vLLM does not detect it). */
  embed(input: string | readonly string[], options: EmbedOptions = {}): Promise<EmbedResult> {
    return embed(this.#routes, input, options);
  }

  /** The tokens of a text, or of a conversation through the chat template. */
  tokenize(input: string | readonly ChatMessage[], options: TokenizeOptions = {}): Promise<TokenizeResult> {
    return tokenize(this.#routes, input, options);
  }

  /** The text of tokens. */
  detokenize(tokens: readonly number[], options: CallOptions = {}): Promise<string> {
    return detokenize(this.#routes, tokens, options);
  }

  /** Facts about the model: KV cache, requests running in vLLM, engine arguments. */
  async info(): Promise<ModelInfo> {
    const raw = (await this.#backend.control({ op: "info" })) as RawInfo;
    const { in_memory: inMemory, ...counts } = raw.adapters ?? { loads: 0, evictions: 0, in_memory: 0 };
    return {
      model: raw.model,
      vllmVersion: raw.vllm_version,
      pid: raw.pid,
      loadSeconds: raw.load_seconds,
      kvCache: {
        tokens: raw.kv_cache.tokens,
        bytes: raw.kv_cache.bytes ?? undefined,
        maxModelLen: raw.kv_cache.max_model_len,
      },
      requests: raw.requests,
      enableLora: raw.enable_lora,
      adapters: raw.adapters === null ? undefined : { ...counts, inMemory },
      engineArgs: raw.engine_args,
    };
  }

  /** Unloads the model, unless others in this process share it, and with the last model stops Triton. Repeated and concurrent calls are one call. */
  dispose(options: DisposeOptions = {}): Promise<void> {
    if (this.#disposed === undefined) {
      let deadline: number | undefined;
      try {
        deadline = checkLimit("deadline", options.deadline);
      } catch (error) {
        return Promise.reject(error);
      }
      this.#disposed = this.#dispose(options.drain ?? false, deadline);
    }
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #dispose(drain: boolean, deadline: number | undefined): Promise<void> {
    await this.#backend.end({ drain, deadline });
    this.#warm?.release();
    try {
      await this.#served.release();
    } finally {
      await this.#core.stop();
    }
  }
}

interface RawInfo {
  model: string;
  vllm_version: string;
  pid: number;
  load_seconds: number;
  kv_cache: { tokens: number; bytes: number | null; max_model_len: number };
  requests: { running: number; waiting: number };
  enable_lora: boolean;
  adapters: { loads: number; evictions: number; in_memory: number } | null;
  engine_args: Record<string, unknown>;
}

function nameOf(options: { model?: string | undefined }): string {
  return options.model ?? defaultName;
}

function backendFolder(named: string | undefined): string {
  if (named === undefined) return join(packageRoot(), "backends", "vllm");
  const folder = resolve(named);
  if (existsSync(join(folder, "model.py"))) return folder;
  throw new InvalidArgumentError(`backend is no folder of a vLLM backend: there is no ${join(folder, "model.py")}`, {
    hint: "in NVIDIA's container it is /opt/tritonserver/backends/vllm",
  });
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}
