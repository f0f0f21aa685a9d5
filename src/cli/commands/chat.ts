import { createInterface, type Interface } from "node:readline";
import { nearest } from "../../common/nearest";
import { TritonodeError } from "../../errors";
import type { VllmModel } from "../../model";
import { integer, jsonObject, parse } from "../arguments";
import { type ChatFormat, chatFormat, type Message } from "../chat-format";
import type { Command, Context } from "../context";
import { withModel } from "../model";
import { reportError } from "../report-error";
import { styler } from "../terminal";

const help = `Usage: tritonode chat [options]

Talks with a model, its answers streamed as they come.

Options:
  --model-repository PATH   the folder that holds <model>/1/model.json (default: model_repository)
  -m, --model NAME          the model in it (default: the only one there)
  -l, --lora NAME           the adapter to begin with (default: the base model)
  --system TEXT             the system message
  --max-tokens N            the longest answer, in tokens (default: 512)
  --sampling-parameters JSON  more of vLLM's sampling parameters, e.g. '{"temperature": 0}'
  -v, --verbose             show the log while the model loads
  -h, --help                show this text

In the conversation, /help lists the commands. Ctrl-C stops an answer; twice at the prompt it quits.
`;

const COMMANDS = `  /lora NAME    answer with this adapter from now on
  /lora         list the adapters
  /base         answer with the base model from now on
  /reset        forget the conversation
  /help         this list
  /quit         leave (Ctrl-D does it too)
`;

export const chatCommand: Command = {
  name: "chat",
  summary: "talk with a model and its adapters",
  help,
  async run(args, context) {
    const { values } = parse("chat", args, {
      "model-repository": { type: "string", default: "model_repository" },
      model: { type: "string", short: "m" },
      lora: { type: "string", short: "l" },
      system: { type: "string" },
      "max-tokens": { type: "string", default: "512" },
      "sampling-parameters": { type: "string" },
      verbose: { type: "boolean", short: "v", default: false },
    });
    const more = values["sampling-parameters"];
    const sampling = {
      max_tokens: integer("--max-tokens", values["max-tokens"], 1),
      ...(more === undefined ? {} : jsonObject("--sampling-parameters", more)),
    };
    const where = { modelRepository: values["model-repository"], model: values.model, verbose: values.verbose };
    return withModel(context, where, async (model) => {
      const { engineArgs } = await model.info();
      const chat = new Chat(model, context, chatFormat(String(engineArgs.model)), sampling, values.system);
      if (values.lora !== undefined) await chat.switchTo(values.lora);
      await chat.run();
      return 0;
    });
  },
};

/** One conversation at a terminal (or from a pipe: then each line is a turn and nothing is asked). */
export class Chat {
  private readonly history: Message[] = [];
  private lora: string | undefined;
  private answering: AbortController | undefined;
  private lastInterrupt = false;
  private readonly style: ReturnType<typeof styler>;

  constructor(
    private readonly model: Pick<VllmModel, "stream" | "adapters">,
    private readonly context: Context,
    private readonly format: ChatFormat,
    private readonly sampling: Record<string, unknown>,
    private readonly system: string | undefined,
  ) {
    this.style = styler(context.stdout, context.environment);
  }

  /** Runs until the input ends or the user quits. */
  async run(): Promise<void> {
    const { stdin, stdout, signal } = this.context;
    const terminal = stdin.isTTY === true && stdout.isTTY === true;
    const lines = createInterface({
      input: stdin,
      ...(terminal ? { output: stdout as NodeJS.WriteStream, terminal: true } : {}),
      historySize: 500,
    });
    const close = () => lines.close();
    signal.addEventListener("abort", close, { once: true });
    if (terminal) {
      stdout.write(this.style("dim", `${this.format.name}. /help for the commands, Ctrl-D to leave.\n`));
      // on a terminal in raw mode Ctrl-C is a key, not a signal
      lines.on("SIGINT", () => this.interrupt(lines));
    }
    try {
      this.prompt(lines, terminal);
      for await (const line of lines) {
        this.lastInterrupt = false;
        if (!(await this.take(line.trim()))) break;
        this.prompt(lines, terminal);
      }
    } finally {
      signal.removeEventListener("abort", close);
      lines.close();
    }
    signal.throwIfAborted();
    if (terminal) stdout.write("\n");
  }

  /** Takes one line. @returns false when the conversation is over. */
  async take(line: string): Promise<boolean> {
    if (line === "") return true;
    try {
      if (line.startsWith("/")) return await this.command(line);
      await this.answer(line);
    } catch (error) {
      // a wrong name or a refused prompt does not end the conversation
      if (this.context.signal.aborted || !(error instanceof TritonodeError)) throw error;
      reportError(error, this.context);
    }
    return true;
  }

  /** Answers with another adapter from now on; undefined is the base model. @throws AdapterNotFoundError */
  async switchTo(lora: string | undefined): Promise<void> {
    if (lora !== undefined) await this.model.adapters.get(lora);
    this.lora = lora;
  }

  private async command(line: string): Promise<boolean> {
    const { stdout } = this.context;
    const [name = "", argument] = line.slice(1).split(/\s+/);
    switch (name) {
      case "quit":
      case "exit":
        return false;
      case "reset":
        this.history.length = 0;
        stdout.write(this.style("dim", "the conversation is forgotten\n"));
        return true;
      case "base":
        await this.switchTo(undefined);
        return true;
      case "lora": {
        if (argument !== undefined) {
          await this.switchTo(argument);
          return true;
        }
        const names = (await this.model.adapters.list()).map((adapter) => adapter.name);
        stdout.write(`  ${names.length === 0 ? "the model serves no adapters" : names.join("\n  ")}\n`);
        return true;
      }
      case "help":
        stdout.write(COMMANDS);
        return true;
      default: {
        const near = nearest(name, ["lora", "base", "reset", "help", "quit"]);
        stdout.write(`/${name} is not known${near === undefined ? "" : `; did you mean /${near}?`}\n`);
        return true;
      }
    }
  }

  private async answer(question: string): Promise<void> {
    const { stdout, signal } = this.context;
    const messages: Message[] = [
      ...(this.system === undefined ? [] : [{ role: "system" as const, content: this.system }]),
      ...this.history,
      { role: "user", content: question },
    ];
    const answering = new AbortController();
    this.answering = answering;
    let text = "";
    try {
      const stream = this.model.stream(this.format.render(messages), {
        ...this.sampling,
        stop: [...this.format.stop],
        signal: AbortSignal.any([answering.signal, signal]),
        ...(this.lora === undefined ? {} : { lora: this.lora }),
      });
      for await (const chunk of stream) {
        stdout.write(chunk.text);
        text += chunk.text;
      }
    } catch (error) {
      if (!answering.signal.aborted) throw error;
      stdout.write(this.style("yellow", " [stopped]"));
    } finally {
      this.answering = undefined;
      stdout.write("\n");
    }
    // a stopped answer is part of the conversation too: the next question may refer to it
    this.history.push({ role: "user", content: question }, { role: "assistant", content: text.trim() });
  }

  private interrupt(lines: Interface): void {
    if (this.answering !== undefined) {
      this.answering.abort();
    } else if (this.lastInterrupt) {
      lines.close();
    } else {
      this.lastInterrupt = true;
      this.context.stdout.write(this.style("dim", "\nCtrl-C again to leave\n"));
      lines.prompt();
    }
  }

  private prompt(lines: Interface, terminal: boolean): void {
    if (!terminal) return;
    lines.setPrompt(`${this.style("cyan", this.lora ?? "base")}> `);
    lines.prompt();
  }
}
