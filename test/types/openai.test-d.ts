import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ChatOpenAI } from "@langchain/openai";
import OpenAI from "openai";
import { expectTypeOf, test } from "vitest";
import { z } from "zod";
import type { ChatResult, VllmModel } from "../../src";

declare const model: VllmModel;
const messages = [{ role: "user", content: "Hi" }];

test("model.fetch is what the clients take", () => {
  new OpenAI({ apiKey: "unused", fetch: model.fetch });
  createOpenAICompatible({ name: "tritonode", baseURL: "http://localhost/v1", fetch: model.fetch });
  new ChatOpenAI({ model: "alpaca", apiKey: "unused", configuration: { fetch: model.fetch } });
  expectTypeOf(model.fetch).toEqualTypeOf<typeof globalThis.fetch>();
});

test("a structured answer has its schema's type", () => {
  const structured = z.object({ city: z.enum(["Paris", "Berlin"]), stars: z.number() });
  const typed = model.chat(messages, { structured, max_tokens: 9 });
  expectTypeOf(typed).resolves.toExtend<ChatResult<{ city: "Paris" | "Berlin"; stars: number }>>();
  expectTypeOf(model.chat(messages).then((result) => result.object)).resolves.toBeNever();
  // @ts-expect-error: a number is no count of tokens as text
  model.chat(messages, { max_tokens: "9" });
});
