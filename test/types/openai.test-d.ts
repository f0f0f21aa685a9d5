import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import OpenAI from "openai";
import { expectTypeOf, test } from "vitest";
import { z } from "zod";
import type { ChatAnswer, ChatMessage, ChatResult, GenerateResult, VllmModel } from "../../src";

declare const model: VllmModel;
const messages = [{ role: "user", content: "Hi" }];

test("model.fetch is what the clients take", () => {
  new OpenAI({ apiKey: "unused", fetch: model.fetch });
  createOpenAICompatible({ name: "tritonode", baseURL: "http://localhost/v1", fetch: model.fetch });
  new ChatOpenAI({ model: "alpaca", apiKey: "unused", configuration: { fetch: model.fetch } });
  expectTypeOf(model.fetch).toEqualTypeOf<typeof globalThis.fetch>();
});

test("messages and tools may have the types of OpenAI's package", () => {
  const theirs: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: [{ type: "text", text: "Hi" }] }];
  const tools: OpenAI.ChatCompletionTool[] = [];
  model.chat(theirs, { tools });
  model.chatStream(theirs);
  model.tokenize(theirs);
  model.map([theirs]);
  model.runTools({ messages: theirs, tools: {} });
  // @ts-expect-error: a message has an author
  model.chat([{ content: "Hi" }]);
  // @ts-expect-error: a number is not a text
  model.chat([{ role: "user", content: 5 }]);
});

test("a structured answer has its schema's type", () => {
  const structured = z.object({ city: z.enum(["Paris", "Berlin"]), stars: z.number() });
  const typed = model.chat(messages, { structured, max_tokens: 9 });
  expectTypeOf(typed).resolves.toExtend<ChatResult<{ city: "Paris" | "Berlin"; stars: number }>>();
  expectTypeOf(typed.then((result) => result.object)).resolves.toEqualTypeOf<{
    city: "Paris" | "Berlin";
    stars: number;
  }>();
  expectTypeOf(model.chatStream(messages, { structured }).final()).resolves.toEqualTypeOf<
    ChatAnswer<{ city: "Paris" | "Berlin"; stars: number }>
  >();
  const plain = model.chat(messages, { structured: { type: "object" } });
  expectTypeOf(plain.then((result) => result.object)).resolves.toBeUnknown();
  // @ts-expect-error: what a plain JSON schema allows is not known to be a city
  plain.then(({ object }): { city: string } => object);
  expectTypeOf(model.chat(messages).then((result) => result.object)).resolves.toBeUndefined();
  expectTypeOf(model.chat(messages, { max_tokens: 9 }).then((result) => result.object)).resolves.toBeUndefined();
  // @ts-expect-error: a number is no count of tokens as text
  model.chat(messages, { max_tokens: "9" });
  // @ts-expect-error: misspelt
  model.chat(messages, { max_token: 9 });
  model.chat(messages, { extra: { some_field_of_tomorrow: 9 }, chat_template_kwargs: { enable_thinking: false } });
});

test("the arguments of a tool have its schema's type", () => {
  model.runTools({
    messages,
    tools: {
      weather: {
        parameters: z.object({ city: z.string() }),
        execute: (args) => expectTypeOf(args).toEqualTypeOf<{ city: string }>(),
      },
      clock: {
        parameters: z.object({ zone: z.number() }),
        execute: ({ zone }, { signal }) => {
          expectTypeOf(zone).toEqualTypeOf<number>();
          expectTypeOf(signal).toEqualTypeOf<AbortSignal | undefined>();
        },
      },
    },
  });
  // @ts-expect-error: a tool needs a function
  model.runTools({ messages, tools: { weather: { parameters: z.object({}) } } });
});

declare const prompts: AsyncIterable<string>;

test("a map keeps its items' type, and tells failures apart", async () => {
  for await (const each of model.map(prompts, { max_tokens: 5 }, { concurrency: 2 })) {
    expectTypeOf(each.item).toEqualTypeOf<string>();
    if (each.ok) expectTypeOf(each.result).toEqualTypeOf<GenerateResult>();
    else expectTypeOf(each.error).toBeUnknown();
  }
  for await (const each of model.map([messages]))
    if (each.ok) expectTypeOf(each.result.message).toEqualTypeOf<ChatMessage>();
});
