import { nearest } from "../../common/nearest";
import { DisposedError, EngineDiedError, InvalidArgumentError, TritonodeError } from "../../errors";
import { AdapterNotFoundError, LoraDisabledError, type VllmModel } from "../../model";
import { type Answer, type AskedModel, answerJson, ask, speedNote } from "../ask";
import type { Context } from "../context";
import { reportError } from "../report-error";
import { styler } from "../terminal";
import { Conversation } from "./conversation";
import { History, historyFile } from "./history";
import { Input } from "./input";

export interface SessionOptions {
  readonly sampling: Readonly<Record<string, unknown>>;
  /** Whether the model's chat template is used. If not, each turn is a text that the model continues. */
  readonly template: boolean;
  /** The user asked not to use the chat template (`--raw`). */
  readonly raw: boolean;
  /** No notes on standard error. */
  readonly quiet: boolean;
  /** Each answer as a JSON line. */
  readonly json: boolean;
  /** Keep no history of the input (`--no-history`). */
  readonly noHistory?: boolean;
}

interface ChatCommand {
  readonly names: readonly string[];
  readonly argument?: string;
  readonly help: string;
  /** @returns false when the conversation is over */
  run(session: Session, argument: string): Promise<boolean> | boolean;
}

/** The commands of a conversation; the first name is the one that /help lists. */
const COMMANDS: readonly ChatCommand[] = [
  {
    names: ["lora"],
    argument: "NAME",
    help: "use this adapter from now on; NAME=PATH loads it first; without a name: the base model",
    run: (session, argument) => session.lora(argument),
  },
  { names: ["base"], help: "use the base model from now on", run: (session) => session.lora("") },
  { names: ["adapters"], help: "list the adapters", run: (session) => session.listAdapters() },
  {
    names: ["system"],
    argument: "TEXT",
    help: "set the system message; without a text: remove it",
    run: (session, argument) => session.system(argument),
  },
  { names: ["clear", "reset"], help: "forget what was said", run: (session) => session.clear() },
  {
    names: ["save"],
    argument: "FILE",
    help: "write the conversation to a file",
    run: (session, argument) => session.save(argument),
  },
  {
    names: ["load"],
    argument: "FILE",
    help: "continue a conversation from a file",
    run: (session, argument) => session.load(argument),
  },
  { names: ["help", "?"], help: "this list", run: (session) => session.help() },
  { names: ["exit", "quit", "bye"], help: "exit (also Ctrl-D and Ctrl-C)", run: () => false },
];

/** A conversation with a model, at a terminal or through a pipe. */
export class Session {
  private answering: AbortController | undefined;
  private readonly style: ReturnType<typeof styler>;

  constructor(
    private readonly context: Context,
    private readonly model: AskedModel & Pick<VllmModel, "adapters">,
    private conversation: Conversation,
    private readonly options: SessionOptions,
  ) {
    this.style = styler(context.stderr, context.environment);
  }

  /** Runs until the input ends or the user exits. */
  async run(): Promise<void> {
    const { signal } = this.context;
    signal.throwIfAborted();
    const prompt = styler(this.context.stdout, this.context.environment);
    const input = new Input(this.context, {
      prompt: () => prompt("cyan", `${this.conversation.lora ?? ""}> `),
      interrupt: () => {
        this.answering?.abort();
        return this.answering !== undefined;
      },
      history: this.history(),
    });
    const close = () => input.close();
    signal.addEventListener("abort", close, { once: true });
    if (!this.options.template && !this.options.raw) {
      this.note("the model has no chat template: it continues each text");
    }
    if (input.terminal) this.note("/help lists the commands; Ctrl-D leaves");
    try {
      for (let turn = await input.next(); turn !== undefined; turn = await input.next()) {
        if (signal.aborted || !(await this.take(turn))) break;
      }
    } finally {
      signal.removeEventListener("abort", close);
      input.close();
    }
    signal.throwIfAborted();
  }

  private history(): History | undefined {
    const file = this.options.noHistory ? undefined : historyFile(this.context.environment);
    return file === undefined ? undefined : new History(file, (text) => this.note(text));
  }

  /** Handles one turn. @returns false when the conversation is over. */
  async take(turn: string): Promise<boolean> {
    if (turn === "") return true;
    try {
      if (turn.startsWith("/")) return await this.command(turn);
      await this.answer(turn);
    } catch (error) {
      // A wrong name or a refused prompt does not end the conversation; a dead engine does.
      const over = error instanceof EngineDiedError || error instanceof DisposedError;
      if (this.context.signal.aborted || over || !(error instanceof TritonodeError)) throw error;
      const hint = "name them at the start: tritonode chat MODEL --lora NAME=PATH";
      const disabled = error instanceof LoraDisabledError;
      reportError(disabled ? new InvalidArgumentError(error.message, { hint, cause: error }) : error, this.context);
      if (error instanceof InvalidArgumentError && this.conversation.turns.length > 0 && !turn.startsWith("/")) {
        this.note("/clear forgets what was said so far");
      }
    }
    return true;
  }

  /** Answers with another adapter from now on; undefined is the base model. @throws AdapterNotFoundError */
  async switchTo(lora: string | undefined): Promise<void> {
    if (lora !== undefined) await this.model.adapters.get(lora);
    this.conversation.lora = lora;
  }

  /** Answers with the adapter of a conversation from a file, if it is served. */
  async switchBack(lora: string): Promise<void> {
    try {
      await this.switchTo(lora);
    } catch (error) {
      if (!(error instanceof AdapterNotFoundError || error instanceof LoraDisabledError)) throw error;
      const instead = this.conversation.lora ?? "the base model";
      this.say(`its adapter ${lora} is not served (--lora ${lora}=PATH): ${instead} answers`);
    }
  }

  async lora(argument: string): Promise<boolean> {
    const equals = argument.indexOf("=");
    if (equals > 0) await this.model.adapters.load(argument.slice(0, equals), argument.slice(equals + 1));
    await this.switchTo(equals > 0 ? argument.slice(0, equals) : argument === "" ? undefined : argument);
    return this.say(`${this.conversation.lora ?? "the base model"} answers from now on`);
  }

  async listAdapters(): Promise<boolean> {
    const adapters = await this.model.adapters.list();
    if (adapters.length === 0) return this.say("the model serves no adapters");
    for (const { name, rank, path } of adapters) {
      const mark = name === this.conversation.lora ? "*" : " ";
      this.say(`${mark} ${name}${rank === undefined ? "" : `  rank ${rank}`}${path === undefined ? "" : `  ${path}`}`);
    }
    return true;
  }

  system(argument: string): boolean {
    this.conversation.system = argument === "" ? undefined : argument;
    if (!this.options.template) return this.say("it is not used: the model has no chat template");
    return this.say(argument === "" ? "there is no system message" : "the system message is set");
  }

  clear(): boolean {
    this.conversation.turns = [];
    return this.say("what was said is forgotten");
  }

  save(argument: string): boolean {
    if (argument === "") return this.say("/save FILE");
    return this.say(`saved: ${this.conversation.save(argument)}`);
  }

  async load(argument: string): Promise<boolean> {
    if (argument === "") return this.say("/load FILE");
    const loaded = Conversation.load(argument);
    const { lora } = loaded;
    // The conversation can be continued with any adapter, whichever one answered before.
    loaded.lora = this.conversation.lora;
    this.conversation = loaded;
    if (lora !== undefined) await this.switchBack(lora);
    return this.say(`${loaded.turns.length} messages`);
  }

  help(): boolean {
    for (const { names, argument, help } of COMMANDS) {
      this.say(`  ${`/${names[0]}${argument === undefined ? "" : ` ${argument}`}`.padEnd(14)} ${help}`);
    }
    this.say('  a line that ends in \\ continues on the next one, and so does a text between """ and """');
    return this.say("  Ctrl-C stops an answer");
  }

  private async command(line: string): Promise<boolean> {
    const [, name = "", argument = ""] = /^\/(\S*)\s*([\s\S]*)$/.exec(line) ?? [];
    const command = COMMANDS.find(({ names }) => names.includes(name));
    if (command !== undefined) return command.run(this, argument.trim());
    const near = nearest(
      name,
      COMMANDS.flatMap(({ names }) => names),
    );
    return this.say(
      `/${name} is not known; ${near === undefined ? "/help lists the commands" : `did you mean /${near}?`}`,
    );
  }

  private async answer(question: string): Promise<void> {
    const { stdout, signal } = this.context;
    const { template, sampling, json } = this.options;
    const { lora } = this.conversation;
    const answering = new AbortController();
    this.answering = answering;
    let written = false;
    let answer: Answer | undefined;
    try {
      answer = await ask(
        this.model,
        template ? { messages: this.conversation.with(question) } : { prompt: question },
        { lora, sampling, signal, stop: answering.signal },
        (piece) => {
          written ||= piece !== "";
          if (!json) stdout.write(piece);
        },
      );
    } finally {
      this.answering = undefined;
      if (!json && (written || answer !== undefined)) stdout.write("\n");
    }
    // A stopped answer is part of the conversation too: the next question may refer to it.
    if (template) this.conversation.add(question, answer.text);
    if (json) stdout.write(`${JSON.stringify(answerJson(answer, lora))}\n`);
    this.note(speedNote(answer));
  }

  /** Prints a line that the user asked for. Only answers go to standard output. */
  private say(text: string): true {
    this.context.stderr.write(`${text}\n`);
    return true;
  }

  private note(text: string): void {
    if (!this.options.quiet) this.context.stderr.write(`${this.style("dim", text)}\n`);
  }
}
