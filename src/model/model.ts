import { randomBytes } from "node:crypto";
import { join, resolve } from "node:path";
import { callback } from "../common/callbacks";
import { DisposedError, ModelLoadError, RequestCancelledError, type TritonodeError } from "../errors";
import { loadAddon } from "../native/binding";
import { packageRoot } from "../package-root";
import { findRuntime, requireGpu } from "../runtime";
import type { Runtime } from "../runtime/runtime";
import { type InferenceRequest, type InferenceResponse, type ResponseStream, TritonServer } from "../server";
import { DeltaChannel, type ReadEntry, readTextEntry } from "../transport/deltas";
import { Adapters } from "./adapters";
import { fromLoadFailure, fromRequestFailure } from "./failure";
import { GenerationStream } from "./generation";
import { type LoadProgress, loggerFor, type VllmModelOptions } from "./load";
import { checkLoadOptions } from "./load-options";
import type { Door } from "./openai/call";
import { type ChatStream, chat, chatStream } from "./openai/chat";
import type { ChatMessage, ChatOptions, ChatResult, StructuredAnswer } from "./openai/chat-types";
import { type EmbedOptions, type EmbedResult, embed } from "./openai/embed";
import { createFetch } from "./openai/fetch";
import type { Structure } from "./openai/schema";
import { detokenize, type TokenizeOptions, type TokenizeResult, tokenize } from "./openai/tokenize";
import type { CallOptions } from "./options";
import { locateModel } from "./repository";
import { type GenerateOptions, type PreparedRequest, prepareRequest } from "./request";
import { type GenerateResult, mergeResponses, ResponseReader } from "./results";
import { abortError, ServedModel } from "./serve";

/** Request parameter that names a request for the `cancel` operation (tritonode/control.py). */
const cancelToken = "tritonode_cancel_token";
const defaultName = "vllm_model";

/** What a model says of itself. */
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
  drain?: boolean;
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
  readonly #door: Door;
  readonly #server: TritonServer;
  readonly #served: ServedModel;
  readonly #channel: DeltaChannel;
  readonly #cancelled: string[] = [];
  // Models are shared by a process's threads, tokens must not be.
  readonly #tokenPrefix = `${randomBytes(6).toString("hex")}-`;
  #nextToken = 1;
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
    const backend = join(packageRoot(), "backends", "vllm");
    const name =
      options.engine === undefined ? locateModel(options.modelRepository, options.model).name : nameOf(options);
    // First, for on a machine that can't run it nothing else is worth knowing.
    loadAddon();
    const runtime = await resolveRuntime(options);
    requireGpu(runtime);
    const began = performance.now();
    const report = (progress: Omit<LoadProgress, "elapsed">) => {
      if (onProgress === undefined) return;
      callback("onProgress", onProgress, () => onProgress({ ...progress, elapsed: performance.now() - began }));
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
    const server = await TritonServer.start({
      runtime,
      logger,
      backends: { vllm: backend },
    });
    try {
      throwIfAborted(signal);
      const model = new VllmModel(name, server, await ServedModel.load(server, name, options));
      await model.#channel.open();
      return model;
    } catch (error) {
      await server.stop().catch(() => {});
      throw fromLoadFailure(name, error);
    }
  }

  private constructor(name: string, server: TritonServer, served: ServedModel) {
    this.name = name;
    this.#server = server;
    this.#served = served;
    this.adapters = new Adapters((request) => this.#control(request));
    this.#channel = new DeltaChannel(name, server.privateDirectory, (request) => this.#infer(request));
    this.fetch = createFetch({
      send: (request, read) => this.#infer(request, read),
      tell: (request) => server.infer({ ...request, model: name }),
    });
    this.#door = {
      fetch: this.fetch,
      adapterNames: async () => (await this.adapters.list()).map((adapter) => adapter.name),
    };
  }

  /** The Triton server that serves the model: its metrics, statistics, and other models beside this one. */
  get server(): TritonServer {
    return this.#server;
  }

  /** Whether the model takes requests: false from the moment its child is gone. */
  async isReady(): Promise<boolean> {
    return this.#disposed === undefined && (await this.#server.isModelReady(this.name));
  }

  /**
   * Generates the whole answer to a prompt.
   *
   * @throws {@link InvalidArgumentError} for a bad prompt, option or sampling parameter (named), {@link AdapterNotFoundError},
   *   {@link LoraDisabledError}, {@link DeadlineExceededError}, {@link RequestCancelledError}, {@link EngineDiedError},
   *   {@link DisposedError}.
   */
  async generate(prompt: string, options: GenerateOptions = {}): Promise<GenerateResult> {
    const stream = this.#send(prepareRequest(prompt, options, false));
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
    return new GenerationStream(this.#send(prepareRequest(prompt, options, true), readTextEntry));
  }

  /**
   * Answers a conversation, through the model's chat template. With `structured` (a zod schema or a JSON schema) the
   * answer is held to the schema and `object` is the answer, typed.
   *
   * @throws as {@link VllmModel.generate}; {@link StructuredOutputError} for an answer that was cut off,
   *   {@link HttpStatusError} for what vLLM's application answers beside.
   */
  chat<S extends Structure | undefined = undefined>(
    messages: readonly ChatMessage[],
    options: ChatOptions<S> = {},
  ): Promise<ChatResult<StructuredAnswer<S>>> {
    return chat(this.#door, messages, options);
  }

  /**
   * Answers a conversation piece by piece; leaving the loop early cancels the request. Bad arguments throw at once, other
   * errors while iterating.
   */
  chatStream<S extends Structure | undefined = undefined>(
    messages: readonly ChatMessage[],
    options: ChatOptions<S> = {},
  ): ChatStream<StructuredAnswer<S>> {
    return chatStream(this.#door, messages, options);
  }

  /** Embeds texts, with a model that embeds (engine argument `runner: "pooling"` where vLLM does not see it by itself). */
  embed(input: string | readonly string[], options: EmbedOptions = {}): Promise<EmbedResult> {
    return embed(this.#door, input, options);
  }

  /** The tokens of a text, or of a conversation through the chat template. */
  tokenize(input: string | readonly ChatMessage[], options: TokenizeOptions = {}): Promise<TokenizeResult> {
    return tokenize(this.#door, input, options);
  }

  /** The text of tokens. */
  detokenize(tokens: readonly number[], options: CallOptions = {}): Promise<string> {
    return detokenize(this.#door, tokens, options);
  }

  /** What the model says of itself: KV cache, requests running in vLLM, engine arguments. */
  async info(): Promise<ModelInfo> {
    const raw = (await this.#control({ op: "info" })) as RawInfo;
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
    this.#disposed ??= this.#dispose(options.drain ?? false);
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #dispose(drain: boolean): Promise<void> {
    if (!drain) this.#server.cancelAll(new RequestCancelledError("the model was disposed of"));
    await this.#server.drained();
    this.#channel.close();
    try {
      await this.#served.release();
    } finally {
      await this.#server.stop();
    }
  }

  /** Sends a request; with `read` its pieces come through the channel. */
  #infer(request: Omit<InferenceRequest, "model">, read?: ReadEntry): ResponseStream {
    if (this.#disposed !== undefined) throw new DisposedError(`the model '${this.name}'`);
    const token = `${this.#tokenPrefix}${this.#nextToken++}`;
    const channel = read === undefined ? undefined : this.#channel.parameters;
    return this.#server.infer({
      ...request,
      model: this.name,
      parameters: { ...request.parameters, ...channel, [cancelToken]: token },
      onCancel: () => this.#cancelSoon(token),
      ...(read === undefined || channel === undefined
        ? {}
        : { deliver: (handler) => this.#channel.add(token, handler, read) }),
    });
  }

  /**
   * Tells the backend which requests were cancelled. It would learn it from Triton too, but only by asking for each
   * running request in turn. All of one turn of the event loop go together.
   */
  #cancelSoon(token: string): void {
    if (this.#cancelled.push(token) > 1) return;
    queueMicrotask(() => {
      const tokens = this.#cancelled.splice(0);
      // A model that is gone has nothing left to cancel.
      this.#ask({ op: "cancel", tokens }).catch(() => {});
    });
  }

  #send(prepared: PreparedRequest, read?: ReadEntry): ResponseStream {
    return this.#infer({ ...prepared, merge: mergeResponses }, read);
  }

  async #control(request: Record<string, unknown>): Promise<unknown> {
    if (this.#disposed !== undefined) throw new DisposedError(`the model '${this.name}'`);
    return this.#ask(request);
  }

  async #ask(request: Record<string, unknown>): Promise<unknown> {
    const stream = this.#server.infer({
      model: this.name,
      inputs: [
        { name: "text_input", datatype: "BYTES", data: [""] },
        { name: "control_request", datatype: "BYTES", data: [JSON.stringify(request)] },
      ],
      outputs: ["text_output"],
    });
    let response: InferenceResponse;
    try {
      response = await stream.response();
    } catch (error) {
      throw fromRequestFailure(error) as TritonodeError;
    }
    const answer = response.outputs["text_output"]?.data[0];
    return JSON.parse(typeof answer === "string" ? answer : "null");
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

async function resolveRuntime(options: VllmModelOptions): Promise<Runtime> {
  const { runtime, device } = options;
  if (typeof runtime === "object" && runtime !== null) return runtime;
  return findRuntime({
    ...(runtime === undefined ? {} : { directory: resolve(runtime) }),
    ...(device === undefined ? {} : { device }),
  });
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}
