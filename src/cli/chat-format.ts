import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

export interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

/** How a conversation becomes a prompt, and what ends an answer. */
export interface ChatFormat {
  readonly name: string;
  readonly stop: readonly string[];
  render(messages: readonly Message[]): string;
}

/** `<|im_start|>role`: SmolLM2, Qwen and many fine-tunes. A template that puts in a system message of its own says which. */
function chatMl(defaultSystem: string | undefined): ChatFormat {
  return {
    name: "ChatML",
    stop: ["<|im_end|>"],
    render(messages) {
      const first = messages[0]?.role === "system" || defaultSystem === undefined;
      const all: readonly Message[] = first ? messages : [{ role: "system", content: defaultSystem }, ...messages];
      return `${all.map(({ role, content }) => `<|im_start|>${role}\n${content}<|im_end|>\n`).join("")}<|im_start|>assistant\n`;
    },
  };
}

/** Llama 3's headers. The tokenizer puts the begin-of-text token in front. */
const llama3: ChatFormat = {
  name: "Llama 3",
  stop: ["<|eot_id|>"],
  render(messages) {
    const header = (role: string) => `<|start_header_id|>${role}<|end_header_id|>\n\n`;
    return `${messages.map(({ role, content }) => `${header(role)}${content.trim()}<|eot_id|>`).join("")}${header("assistant")}`;
  },
};

/** Llama 2's and Mistral's instruction tags; the system text goes into the first one. */
const llama2: ChatFormat = {
  name: "Llama 2",
  stop: ["</s>", "[INST]"],
  render(messages) {
    const system = messages[0]?.role === "system" ? `<<SYS>>\n${messages[0].content}\n<</SYS>>\n\n` : "";
    const turns = messages.filter(({ role }) => role !== "system");
    return turns
      .map(({ role, content }, index) =>
        role === "user" ? `[INST] ${index === 0 ? system : ""}${content.trim()} [/INST]` : ` ${content.trim()} </s>`,
      )
      .join("");
  },
};

/** For a base model, which knows no roles: a transcript to be continued. */
const transcript: ChatFormat = {
  name: "plain transcript (the model has no chat template)",
  stop: ["\nUser:", "\nSystem:"],
  render(messages) {
    const labels = { system: "System", user: "User", assistant: "Assistant" };
    return `${messages.map(({ role, content }) => `${labels[role]}: ${content}\n`).join("")}Assistant:`;
  },
};

/**
 * The format of a model's own chat template, recognised by the markers in it (`chat_template.jinja`, or `chat_template` in
 * `tokenizer_config.json`, as transformers saves them).
 *
 * @param model the folder of the base model's weights and tokenizer.
 */
export function chatFormat(model: string): ChatFormat {
  const template = readTemplate(model);
  if (template.includes("<|im_start|>")) {
    // only literal text of the template is a default; an expression ({{ }}) inserts the caller's
    const system = /<\|im_start\|>system(?:\\n|\n)([^<{}]+?)<\|im_end\|>/.exec(template)?.[1];
    return chatMl(system?.replaceAll("\\n", "\n"));
  }
  if (template.includes("<|start_header_id|>")) return llama3;
  if (template.includes("[INST]")) return llama2;
  return transcript;
}

function readTemplate(model: string): string {
  const file = join(model, "chat_template.jinja");
  if (existsSync(file)) return readFileSync(file, "utf8");
  const config = join(model, "tokenizer_config.json");
  if (!existsSync(config)) return "";
  const template: unknown = JSON.parse(readFileSync(config, "utf8")).chat_template;
  // several named templates are a list; the one for chat is called default
  if (Array.isArray(template)) return String(template.find((entry) => entry?.name === "default")?.template ?? "");
  return typeof template === "string" ? template : "";
}
