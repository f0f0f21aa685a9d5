import { checkLimit } from "../common/duration";
import type { Emitter } from "../common/emitter";
import { checkNames } from "../common/unknown";
import { requireGpu } from "../runtime";
import type { Runtime } from "../runtime/runtime";
import type { TritonServer } from "../server";
import { ServerCore } from "../server/core";
import { toTritonServer } from "../server/triton-server";
import type { WarmChildKeeper } from "../server/warm-child";
import { Adapters } from "./adapters";
import { Backend } from "./backend";
import { detailsOf, type RequestTrace, requestMessage, trace, traced, tracedFetch, tracedLoad } from "./diagnostics";
import { checkEngine } from "./engine-check";
import type { ModelEvents } from "./events";
import { fromLoadFailure, fromRequestFailure } from "./failure";
import { GenerationStream } from "./generation";
import { type ModelInfo, toModelInfo } from "./info";
import { backendFolder, type PrewarmOptions, resolveRuntime, type VllmModelOptions } from "./load";
import { checkLoadOptions } from "./load-options";
import { LoadReport } from "./load-report";
import {
  checkMap,
  isConversation,
  joinSignals,
  type MapOptions,
  type MapResult,
  type MapSource,
  mapInOrder,
} from "./map";
import { type ModelMetrics, toModelMetrics } from "./metrics";
import type { OpenAiRoutes } from "./openai/call";
import { type ChatStream, chat, chatStream } from "./openai/chat";
import type { ChatMessageLike, ChatOptions, ChatResult, StructuredAnswer } from "./openai/chat-types";
import { type EmbedResult, embed } from "./openai/embed";
import { createFetch } from "./openai/fetch";
import type { EmbedOptions, TokenizeOptions } from "./openai/request-types";
import type { Structure } from "./openai/schema";
import { detokenize, type TokenizeResult, tokenize } from "./openai/tokenize";
import { type RunToolsOptions, runTools, type ToolRun } from "./openai/tools";
import { type CallOptions, checkOptions } from "./options";
import { prewarm, type WarmChild } from "./prewarm";
import { locateModel } from "./repository";
import { type GenerateOptions, generateOptions, type Prompt, prepareRequest } from "./request";
import { type GenerateResult, ResponseReader } from "./results";
import { ServedModel, throwIfAborted } from "./served-model";

const defaultName = "vllm_model";

/** Options of {@link VllmModel.dispose}. */
export interface DisposeOptions {
  /** Let running requests finish instead of cancelling them. */
  drain?: boolean | undefined;
  /** Milliseconds after which requests that are still running are cancelled. Default: no limit. */
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
   * A WHATWG `fetch` that calls vLLM's own OpenAI-compatible application, without a network: pass it to the OpenAI client, the
   * AI SDK or LangChain. The URL's host is ignored; a relative URL is relative to `/v1/`. Errors of vLLM are HTTP statuses. If
   * there is no response, it rejects with a TypeError whose `cause` says why ({@link EngineDiedError}, ...).
   */
  readonly fetch: typeof globalThis.fetch;
  readonly #routes: OpenAiRoutes;
  /** The Triton server that serves the model: its metrics, its statistics, and other models. */
  readonly server: TritonServer;
  readonly #core: ServerCore;
  readonly #served: ServedModel;
  readonly #backend: Backend;
  readonly #events: Emitter<ModelEvents>;
  #warm: WarmChildKeeper | undefined;
  #disposed: Promise<void> | undefined;

  /**
   * Loads a model from a model repository, or from the same settings as objects. Resolves when the model has generated its
   * first tokens and its adapters are loaded.
   *
   * @throws {@link InvalidArgumentError} for a bad option or folder, {@link RuntimeMissingError} if no runtime is
   *   installed, {@link AddonLoadError}, {@link PackageFilesError} if a bundler moved the code away from its files,
   *   {@link ModelLoadError} with the backend's reason, {@link MultiLoraMissingError}, {@link RequestCancelledError} when
   *   the signal aborts it.
   */
  static async load(options: VllmModelOptions): Promise<VllmModel> {
    checkLoadOptions(options);
    throwIfAborted(options.signal);
    const backend = backendFolder(options.backend);
    const name =
      options.engine === undefined
        ? locateModel(options.modelRepository, options.model).name
        : (options.model ?? defaultName);
    // This comes first: if this machine can't load the addon, no other error matters.
    ServerCore.checkAddon();
    const runtime = await resolveRuntime(options);
    requireGpu(runtime);
    checkEngine(options, runtime.vllmVersion);
    return tracedLoad(name, () => VllmModel.#load(name, backend, runtime, options));
  }

  static async #load(name: string, backend: string, runtime: Runtime, options: VllmModelOptions): Promise<VllmModel> {
    const report = new LoadReport(name, options, runtime.device);
    await report.begin();
    const core = await ServerCore.start({ runtime, logger: report.logger, backends: { vllm: backend } });
    try {
      throwIfAborted(options.signal);
      const served = await ServedModel.load(core, name, { ...options, onRestart: report.onRestart });
      const model = new VllmModel(name, core, served, report.events);
      await model.#backend.open();
      await report.end();
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
   * Starts a warm child: a Python process that imports torch and vLLM and waits, so that later loads are faster. The next load
   * with the same `environment` option uses it (as long as this process's own environment is unchanged), and so does the
   * restart of a model after a crash. Then another one is started when the models are idle. There is one for each environment,
   * however often this is called. It takes about 400 MB of memory while it waits.
   *
   * ```ts
   * await using warm = await VllmModel.prewarm();
   * const model = await VllmModel.load({ modelRepository: "./model_repository" });
   * ```
   *
   * @returns the warm child's handle, when it has imported everything
   * @throws {@link InvalidArgumentError} for a bad option, {@link RuntimeMissingError} if no runtime is installed or
   *   (`ERR_RUNTIME_BROKEN`) the child can't import, {@link ModelLoadError} (`ERR_LOAD_TIMEOUT`),
   *   {@link RequestCancelledError} when the signal aborts it.
   */
  static prewarm(options: PrewarmOptions = {}): Promise<WarmChild> {
    return prewarm(options);
  }

  private constructor(name: string, core: ServerCore, served: ServedModel, events: Emitter<ModelEvents>) {
    this.#events = events;
    this.name = name;
    this.server = toTritonServer(core);
    this.#core = core;
    this.#served = served;
    this.#backend = new Backend(core, name);
    this.adapters = new Adapters((operation) => this.#backend.control(operation));
    const fetch = createFetch(this.#backend);
    this.fetch = tracedFetch(name, fetch);
    this.#routes = {
      fetch,
      trace: (operation, options, streaming) => trace(() => requestMessage(name, operation, options, streaming)),
      adapterNames: async () => (await this.adapters.list()).map((adapter) => adapter.name),
      resolveAdapter: async (choice) => {
        const answer = await this.#backend.control({ op: "adapters.resolve", ...choice });
        return (answer as { name: string }).name;
      },
    };
  }

  /**
   * Calls `listener` at each event: `"restart"` (a step of a restart), `"adapter"` (the served adapters have changed, for any
   * reason), `"log"` (a line of Triton's, vLLM's or the child's log). If the listener throws, the error is reported as an uncaught
   * {@link CallbackError}. Listeners do not keep the process alive.
   *
   * ```ts
   * model.on("restart", ({ phase, error }) => console.warn(phase, error?.message));
   * ```
   */
  on<Name extends keyof ModelEvents>(event: Name, listener: (event: ModelEvents[Name]) => void): this {
    this.#events.on(event, listener);
    return this;
  }

  /** Like {@link VllmModel.on}, for the next event only. Node's `events.once(model, "restart")` works too. */
  once<Name extends keyof ModelEvents>(event: Name, listener: (event: ModelEvents[Name]) => void): this {
    this.#events.once(event, listener);
    return this;
  }

  /** Stops calling a listener. */
  off<Name extends keyof ModelEvents>(event: Name, listener: (event: ModelEvents[Name]) => void): this {
    this.#events.off(event, listener);
    return this;
  }

  /** The same as {@link VllmModel.off}, under the name that Node's `events.once` and `events.on` use. */
  removeListener<Name extends keyof ModelEvents>(event: Name, listener: (event: ModelEvents[Name]) => void): this {
    return this.off(event, listener);
  }

  /** Whether the model accepts requests; false as soon as its child has ended. */
  async isReady(): Promise<boolean> {
    return this.#disposed === undefined && (await this.#core.isModelReady(this.name));
  }

  /**
   * Generates the answer to a prompt, which is a text or token ids.
   *
   * ```ts
   * const { text, usage } = await model.generate("The capital of France is", { lora: "sql", max_tokens: 20 });
   * ```
   *
   * @throws {@link InvalidArgumentError} that names a bad prompt, option or sampling parameter, {@link AdapterNotFoundError},
   *   {@link LoraDisabledError}, {@link DeadlineExceededError}, {@link RequestCancelledError}, {@link EngineDiedError},
   *   {@link DisposedError}.
   */
  async generate(prompt: Prompt, options: GenerateOptions = {}): Promise<GenerateResult> {
    const run = async () => {
      const stream = this.#backend.send(prepareRequest(prompt, options, false));
      try {
        const reader = new ResponseReader();
        reader.choices(await stream.response());
        return reader.result(stream.id);
      } catch (error) {
        throw fromRequestFailure(error);
      }
    };
    return traced(this.#traceGeneration(options, false), run, detailsOf);
  }

  #traceGeneration(options: GenerateOptions, streaming: boolean): RequestTrace | undefined {
    return trace(() =>
      requestMessage(this.name, "generate", checkOptions(options, { ours: generateOptions }), streaming),
    );
  }

  /**
   * Generates an answer and streams it. Leaving the loop early cancels the request in Triton and in vLLM.
   * Unread pieces are joined, so a slow reader neither uses much memory nor slows down other streams.
   *
   * Errors are those of {@link VllmModel.generate}: bad arguments throw at once, other errors reject while iterating.
   */
  stream(prompt: Prompt, options: GenerateOptions = {}): GenerationStream {
    const prepared = prepareRequest(prompt, options, true);
    const begun = this.#traceGeneration(options, true);
    try {
      return new GenerationStream(this.#backend.send(prepared), begun);
    } catch (error) {
      begun?.fail(error);
      throw error;
    }
  }

  /**
   * Answers a conversation, with the model's chat template. With `structured` (a zod schema or a JSON schema) the answer is
   * constrained to the schema, and `object` is the parsed answer with the schema's type.
   *
   * @throws as {@link VllmModel.generate}; {@link StructuredOutputError} for an answer that was cut off,
   *   {@link HttpStatusError} for other errors of vLLM's application.
   */
  chat<S extends Structure | undefined = undefined>(
    messages: readonly ChatMessageLike[],
    options: ChatOptions<S> = {},
  ): Promise<ChatResult<StructuredAnswer<S>>> {
    return chat(this.#routes, messages, options);
  }

  /**
   * Answers a conversation and streams the answer. Leaving the loop early cancels the request. Bad arguments throw at once,
   * other errors reject while iterating.
   */
  chatStream<S extends Structure | undefined = undefined>(
    messages: readonly ChatMessageLike[],
    options: ChatOptions<S> = {},
  ): ChatStream<StructuredAnswer<S>> {
    return chatStream(this.#routes, messages, options);
  }

  /**
   * Answers a conversation with tools: calls the tools that the model chooses and returns their results to it, until it answers
   * without a call or `maxSteps` is reached. vLLM needs a parser for the model's calls: the engine arguments
   * `enable_auto_tool_choice: true` and `tool_call_parser`.
   *
   * ```ts
   * const { text } = await model.runTools({
   *   messages: [{ role: "user", content: "How is the weather in Rome?" }],
   *   tools: {
   *     weather: {
   *       description: "The weather in a city",
   *       parameters: z.object({ city: z.string() }),
   *       execute: ({ city }) => fetchWeather(city),
   *     },
   *   },
   * });
   * ```
   *
   * @throws as {@link VllmModel.chat}; {@link ToolError} with `toolErrors: "throw"`.
   */
  runTools<Args extends Record<string, unknown>>(options: RunToolsOptions<Args>): Promise<ToolRun> {
    return runTools(this.#routes, options);
  }

  /**
   * Answers many conversations or prompts, at most `concurrency` at a time. Results come in the order of the items, and `source` is
   * read only as fast as they are consumed. An item that fails yields a result with `ok: false`; the others continue.
   *
   * A conversation gets the model's chat template, as in {@link VllmModel.chat}. A plain string gets none: it is continued, as in
   * {@link VllmModel.generate}.
   *
   * ```ts
   * const questions = lines.map((line) => [{ role: "user", content: line }]);
   * for await (const { index, ...answer } of model.map(questions, { max_tokens: 50 }, { concurrency: 32 }))
   *   console.log(lines[index], answer.ok ? answer.result.text : answer.error);
   * ```
   *
   * @param options - the options of each request, or a function that returns the options for an item
   * @throws {@link InvalidArgumentError} at once for bad `settings`; while iterating, what `source` throws, and
   *   {@link RequestCancelledError} when `signal` is aborted. Leaving the loop cancels the running requests.
   */
  map<Item extends Prompt>(
    source: MapSource<Item>,
    options?: GenerateOptions | ((item: Item, index: number) => GenerateOptions),
    settings?: MapOptions,
  ): AsyncGenerator<MapResult<Item, GenerateResult>, void, undefined>;
  map<Item extends readonly ChatMessageLike[]>(
    source: MapSource<Item>,
    options?: ChatOptions<undefined> | ((item: Item, index: number) => ChatOptions<undefined>),
    settings?: MapOptions,
  ): AsyncGenerator<MapResult<Item, ChatResult<undefined>>, void, undefined>;
  map(
    source: MapSource<Prompt | readonly ChatMessageLike[]>,
    options: object | ((item: never, index: number) => object) = {},
    settings: MapOptions = {},
  ): AsyncGenerator<MapResult<unknown, unknown>, void, undefined> {
    const checked = checkMap(source, settings, options);
    return mapInOrder(
      source,
      async (item: Prompt | readonly ChatMessageLike[], index, signal) => {
        const given = typeof options === "function" ? options(item as never, index) : options;
        const own = { ...given, signal: joinSignals((given as CallOptions).signal, signal) };
        return isConversation(item) ? this.chat(item, own) : this.generate(item, own);
      },
      checked,
    );
  }

  /** Embeds texts, with an embedding model (set the engine argument `runner: "pooling"` if vLLM does not detect it). */
  embed(input: string | readonly string[], options: EmbedOptions = {}): Promise<EmbedResult> {
    return embed(this.#routes, input, options);
  }

  /** Tokenizes a text, or a conversation with the chat template. */
  tokenize(input: string | readonly ChatMessageLike[], options: TokenizeOptions = {}): Promise<TokenizeResult> {
    return tokenize(this.#routes, input, options);
  }

  /** Converts token ids to a text. */
  detokenize(tokens: readonly number[], options: CallOptions = {}): Promise<string> {
    return detokenize(this.#routes, tokens, options);
  }

  /** Returns information about the model: KV cache, requests running in vLLM, engine arguments. */
  async info(): Promise<ModelInfo> {
    return toModelInfo(await this.#backend.control({ op: "info" }));
  }

  /**
   * Returns metrics since the model was loaded: Triton's, vLLM's and each adapter's, and all Prometheus metrics, parsed. vLLM's and
   * the adapters' metrics are included if the model's config.pbtxt sets the parameter REPORT_CUSTOM_METRICS to "true".
   */
  async metrics(): Promise<ModelMetrics> {
    return toModelMetrics(await this.server.metrics(), this.name);
  }

  /**
   * Unloads the model, unless others in this process share it, and stops Triton with the last model. Repeated and concurrent calls
   * return the same promise.
   */
  dispose(options: DisposeOptions = {}): Promise<void> {
    if (this.#disposed === undefined) {
      let deadline: number | undefined;
      try {
        checkNames("dispose", options, ["drain", "deadline"]);
        deadline = checkLimit("deadline", options.deadline);
      } catch (error) {
        return Promise.reject(error);
      }
      this.#disposed = this.#dispose(options.drain ?? false, deadline);
    }
    return this.#disposed;
  }

  /** Calls `dispose()`, for `await using`. */
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
