import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { chatFormat, type Message } from "../../src/cli/chat-format";
import { Chat } from "../../src/cli/commands/chat";
import { TritonodeError } from "../../src/errors";
import { context } from "./cli-context";
import { temporary } from "./runtime-files";

const turns: Message[] = [
  { role: "user", content: "Hi" },
  { role: "assistant", content: "Hello" },
  { role: "user", content: "Bye" },
];

function formatOf(template: unknown) {
  const folder = temporary();
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ chat_template: template }));
  return chatFormat(folder);
}

describe("chatFormat", () => {
  it("reads ChatML, with the template's own system message where it has one", () => {
    const plain = formatOf("{% for m in messages %}<|im_start|>{{ m.role }}...");
    expect(plain.render(turns)).toBe(
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    );
    const folder = temporary();
    writeFileSync(join(folder, "chat_template.jinja"), "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}<|im_start|>");
    const own = chatFormat(folder);
    expect(own.render(turns)).toMatch(/^<\|im_start\|>system\nBe kind<\|im_end\|>\n<\|im_start\|>user\nHi/);
    expect(own.render([{ role: "system", content: "Rhyme" }, ...turns])).not.toContain("Be kind");
  });

  it("reads Llama 3, Llama 2 and a list of templates", () => {
    const three = formatOf("<|start_header_id|>{{ role }}<|end_header_id|>");
    expect(three.render(turns.slice(0, 1))).toBe(
      "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    );
    const two = formatOf([{ name: "default", template: "[INST] {{ content }} [/INST]" }]);
    expect(two.render([{ role: "system", content: "Rhyme" }, ...turns])).toBe(
      "[INST] <<SYS>>\nRhyme\n<</SYS>>\n\nHi [/INST] Hello </s>[INST] Bye [/INST]",
    );
  });

  it("falls back to a transcript for a base model", () => {
    expect(chatFormat(temporary()).render(turns)).toBe("User: Hi\nAssistant: Hello\nUser: Bye\nAssistant:");
    expect(chatFormat("/no/folder").stop).toContain("\nUser:");
  });
});

/** A model with one adapter that answers with its adapter's name and the number of turns in the prompt. */
class Counting {
  readonly seen: { prompt: string; options: Record<string, unknown> }[] = [];
  readonly adapters = {
    get: async (name: string) => {
      if (name !== "alpaca") throw new TritonodeError("ERR_ADAPTER_NOT_FOUND", `there is no adapter '${name}'`);
    },
    list: async () => [{ name: "alpaca" }],
  };

  async *stream(prompt: string, options: Record<string, unknown>) {
    this.seen.push({ prompt, options });
    yield { text: ` ${options.lora ?? "base"}`, index: 0 };
    yield { text: String(prompt.split("User:").length - 1), index: 0 };
  }
}

async function conversation(lines: string[], system?: string) {
  const model = new Counting();
  const surroundings = context({ input: `${lines.join("\n")}\n` });
  const chat = new Chat(model as never, surroundings, chatFormat("/no/folder"), { max_tokens: 5 }, system);
  await chat.run();
  return { model, output: surroundings.stdout.text, errors: surroundings.stderr.text };
}

describe("Chat", () => {
  it("keeps the conversation, switches the adapter, forgets on /reset", async () => {
    const { output, model } = await conversation(["one", "/lora alpaca", "two", "/reset", "three", "/base", "four"]);
    expect(output).toBe(" base1\n alpaca2\nthe conversation is forgotten\n alpaca1\n base2\n");
    expect(model.seen[1]?.prompt).toBe("User: one\nAssistant: base1\nUser: two\nAssistant:");
    expect(model.seen[0]?.options).toMatchObject({ max_tokens: 5, stop: ["\nUser:", "\nSystem:"] });
    expect(model.seen[0]?.options).not.toHaveProperty("lora");
  });

  it("stays after an error and after an unknown command", async () => {
    const { output, errors } = await conversation(["/lora nobody", "/lroa", "/lora", "still here"]);
    expect(errors).toContain("there is no adapter 'nobody'");
    expect(output).toBe("/lroa is not known; did you mean /lora?\n  alpaca\n base1\n");
  });

  it("sends the system message with each turn, and ends at /quit", async () => {
    const { model } = await conversation(["one", "", "/quit", "never"], "Be kind");
    expect(model.seen.map(({ prompt }) => prompt)).toEqual(["System: Be kind\nUser: one\nAssistant:"]);
  });
});
