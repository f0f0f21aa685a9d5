import { describe } from "../../common/describe";
import { checkNames, didYouMean } from "../../common/unknown";
import { InvalidArgumentError, RequestCancelledError, TritonodeError } from "../../errors";
import type { Usage } from "../results";
import type { OpenAiRoutes } from "./call";
import { chat, chatStream } from "./chat";
import type { ChatChunk, ChatMessage, ChatMessageLike, ChatOptions, ChatResult, ToolCall } from "./chat-types";
import { parseStructured, type Structure, toJsonSchema } from "./schema";

/** A function that the model may call. */
export interface ChatTool<Args = unknown> {
  /** What it does and when to call it: the model reads this. */
  readonly description?: string | undefined;
  /** Its arguments: a zod schema (then `execute` gets them checked and typed) or a JSON schema of an object. */
  readonly parameters: Structure<Args>;
  /**
   * Called when the model calls the tool. The model gets a returned text unchanged, and any other result as JSON.
   *
   * @param args - the arguments that the model wrote
   * @param context - the call, and the signal of the whole run
   */
  execute(args: Args, context: ToolContext): unknown;
}

/** The second argument of {@link ChatTool.execute}. */
export interface ToolContext {
  readonly call: ToolCall;
  readonly signal: AbortSignal | undefined;
}

/** A call of a tool and its result. */
export interface ToolResult {
  readonly call: ToolCall;
  /** What the model gets as the answer. */
  readonly content: string;
  /** What `execute` threw, or why the call could not be made. */
  readonly error?: unknown;
}

/** One answer of the model, and the tools that it called. */
export interface ToolStep {
  readonly text: string;
  readonly toolCalls: readonly ToolCall[];
  readonly results: readonly ToolResult[];
  readonly usage: Usage;
}

/** Options of {@link VllmModel.runTools}: those of {@link VllmModel.chat}, and the tools. */
export interface RunToolsOptions<Args extends Record<string, unknown> = Record<string, unknown>>
  extends Omit<ChatOptions<undefined>, "tools" | "structured"> {
  readonly messages: readonly ChatMessageLike[];
  /** The tools by name. The model calls them by these names. */
  readonly tools: { readonly [Name in keyof Args]: ChatTool<Args[Name]> };
  /** Maximum number of the model's answers; the calls of the last one are not made. Default 10. */
  readonly maxSteps?: number | undefined;
  /**
   * Which tool to call in the **first** step (`"required"`, or `{ type: "function", function: { name } }`); in later steps
   * the model decides (`"auto"`), except after `"none"`. Default `"auto"`.
   */
  readonly tool_choice?: ChatOptions["tool_choice"];
  /**
   * What happens if a tool throws, or its arguments do not match its schema: `"return"` (default) passes the message to the model, which
   * may try again; `"throw"` ends the run with {@link ToolError}.
   */
  readonly toolErrors?: "return" | "throw" | undefined;
  /** Gets each piece of text; with it the answers are streamed. */
  readonly onText?: ((text: string, step: number) => void) | undefined;
  /** Gets each piece of the answers, including reasoning and tool calls; with it the answers are streamed. */
  readonly onChunk?: ((chunk: ChatChunk, step: number) => void) | undefined;
  /** Called before a tool is called. */
  readonly onToolCall?: ((call: ToolCall) => void) | undefined;
  /** Called with the result of a call. */
  readonly onToolResult?: ((result: ToolResult) => void) | undefined;
}

/** The result of {@link VllmModel.runTools}: the last answer, and the steps before it. */
export interface ToolRun {
  readonly text: string;
  readonly finishReason: string;
  /** The tokens of all steps together. */
  readonly usage: Usage;
  readonly steps: readonly ToolStep[];
  /** The conversation, including all added messages: pass it to the next call to continue. */
  readonly messages: readonly ChatMessage[];
  /** The calls that were not made because `maxSteps` was reached; otherwise empty. */
  readonly pendingCalls: readonly ToolCall[];
}

/** A tool threw, or could not be called with the model's arguments (`toolErrors: "throw"`). `cause` is what it threw. */
export class ToolError extends TritonodeError {
  readonly call: ToolCall;

  constructor(call: ToolCall, cause: unknown) {
    const reason = cause instanceof Error ? cause.message : describe(cause);
    super("ERR_TOOL", `the tool '${call.name}' failed: ${reason}`, {
      cause,
      hint: 'with toolErrors: "return" the model gets the message and may try again',
    });
    this.call = call;
  }
}

/** See {@link VllmModel.runTools}. */
export async function runTools<Args extends Record<string, unknown>>(
  routes: OpenAiRoutes,
  options: RunToolsOptions<Args>,
): Promise<ToolRun> {
  const { tools, messages, maxSteps, fail, rest } = checked(options);
  const { signal } = options;
  const described = describeTools(tools);
  const conversation = [...messages] as ChatMessage[];
  const steps: ToolStep[] = [];
  let choice = options.tool_choice ?? "auto";
  for (;;) {
    const answer = await ask(
      routes,
      conversation,
      { ...rest, tools: described, tool_choice: choice },
      options,
      steps.length,
    );
    conversation.push(answer.message);
    const last = answer.toolCalls.length === 0 || steps.length + 1 === maxSteps;
    const results = last ? [] : await Promise.all(answer.toolCalls.map((call) => callTool(tools, call, options, fail)));
    if (signal?.aborted)
      throw new RequestCancelledError("the request was aborted by its signal", { cause: signal.reason });
    for (const { call, content } of results) conversation.push({ role: "tool", tool_call_id: call.id, content });
    steps.push({ text: answer.text, toolCalls: answer.toolCalls, results, usage: answer.usage });
    if (last) {
      const { text, finishReason, toolCalls } = answer;
      return { text, finishReason, usage: sum(steps), steps, messages: conversation, pendingCalls: toolCalls };
    }
    if (choice !== "none") choice = "auto";
  }
}

type Tools = Readonly<Record<string, ChatTool<unknown>>>;

function checked<Args extends Record<string, unknown>>(options: RunToolsOptions<Args>) {
  if (typeof options !== "object" || options === null) {
    throw new InvalidArgumentError(`runTools takes an object of options, got ${describe(options)}`, {
      hint: "model.runTools({ messages, tools: { name: { description, parameters, execute } } })",
    });
  }
  const {
    messages,
    tools,
    maxSteps = 10,
    toolErrors = "return",
    onText,
    onChunk,
    onToolCall,
    onToolResult,
    ...rest
  } = options;
  if (typeof tools !== "object" || tools === null || Array.isArray(tools) || Object.keys(tools).length === 0) {
    throw new InvalidArgumentError(`tools must be an object of tools by name, got ${describe(tools)}`, {
      hint: "tools: { weather: { description, parameters, execute } }",
    });
  }
  for (const [name, tool] of Object.entries(tools as unknown as Tools)) {
    if (typeof tool !== "object" || tool === null || typeof tool.execute !== "function") {
      throw new InvalidArgumentError(`tools.${name} needs a function \`execute\`, got ${describe(tool?.execute)}`);
    }
    checkNames(`tools.${name}`, tool, ["description", "parameters", "execute"]);
  }
  if (!Number.isSafeInteger(maxSteps) || maxSteps < 1) {
    throw new InvalidArgumentError(`maxSteps must be a whole number of at least 1, got ${describe(maxSteps)}`);
  }
  if (toolErrors !== "return" && toolErrors !== "throw") {
    throw new InvalidArgumentError(`toolErrors must be "return" or "throw", got ${describe(toolErrors)}`);
  }
  for (const [name, listener] of Object.entries({ onText, onChunk, onToolCall, onToolResult })) {
    if (listener !== undefined && typeof listener !== "function") {
      throw new InvalidArgumentError(`${name} must be a function, got ${describe(listener)}`);
    }
  }
  return { messages, tools: tools as unknown as Tools, maxSteps, fail: toolErrors === "throw", rest };
}

function describeTools(tools: Tools): object[] {
  return Object.entries(tools).map(([name, { description, parameters }]) => ({
    type: "function",
    function: { name, ...(description === undefined ? {} : { description }), parameters: toJsonSchema(parameters) },
  }));
}

type Answer = Pick<ChatResult<undefined>, "text" | "toolCalls" | "finishReason" | "usage" | "message">;

async function ask(
  routes: OpenAiRoutes,
  messages: readonly ChatMessage[],
  options: ChatOptions<undefined>,
  { onText, onChunk }: Pick<RunToolsOptions, "onText" | "onChunk">,
  step: number,
): Promise<Answer> {
  if (onText === undefined && onChunk === undefined) return chat(routes, messages, options);
  const stream = chatStream(routes, messages, options);
  for await (const chunk of stream) {
    onChunk?.(chunk, step);
    if (chunk.index === 0 && chunk.text !== "") onText?.(chunk.text, step);
  }
  return stream.final();
}

/** Calls one tool. Depending on `toolErrors`, a failure becomes a result for the model or an error. */
async function callTool(
  tools: Tools,
  call: ToolCall,
  { signal, onToolCall, onToolResult }: Pick<RunToolsOptions, "signal" | "onToolCall" | "onToolResult">,
  fail: boolean,
): Promise<ToolResult> {
  onToolCall?.(call);
  let result: ToolResult;
  try {
    const tool = Object.hasOwn(tools, call.name) ? tools[call.name] : undefined;
    if (tool === undefined) {
      throw new InvalidArgumentError(`there is no tool '${call.name}'${didYouMean(call.name, Object.keys(tools))}`);
    }
    const args = await parseStructured(tool.parameters, call.arguments === "" ? "{}" : call.arguments, "stop");
    const value = await tool.execute(args, { call, signal });
    result = { call, content: typeof value === "string" ? value : (JSON.stringify(value) ?? "null") };
  } catch (error) {
    // An abort comes from the caller: the model is not told about it.
    if (signal?.aborted) {
      throw new RequestCancelledError("the request was aborted by its signal", { cause: signal.reason });
    }
    if (fail) throw new ToolError(call, error);
    const message = error instanceof Error ? error.message : String(error);
    result = { call, content: JSON.stringify({ error: message }), error };
  }
  onToolResult?.(result);
  return result;
}

function sum(steps: readonly ToolStep[]): Usage {
  const total = { promptTokens: 0, completionTokens: 0, totalTokens: 0 };
  for (const { usage } of steps) {
    total.promptTokens += usage.promptTokens;
    total.completionTokens += usage.completionTokens;
    total.totalTokens += usage.totalTokens;
  }
  return total;
}
