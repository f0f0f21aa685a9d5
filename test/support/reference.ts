import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { paths, root } from "./paths";

/** An answer of Hugging Face transformers (+ PEFT) to a greedy request, in float32. */
export interface Reference {
  prompt: string;
  text: string;
  finish_reason: string;
  token_ids: number[];
  margin: number;
}

/** Answers requests with test/fixtures/reference.py. */
export function reference(model: string, requests: object[], tokenizer?: string): Reference[] {
  const input = JSON.stringify({ model, tokenizer, dtype: "float32", requests });
  const text = execFileSync(paths.python, [join(root, "test/fixtures/reference.py")], {
    input,
    maxBuffer: 64 << 20,
    stdio: ["pipe", "pipe", "ignore"],
    env: { ...process.env, HF_HUB_OFFLINE: "1" },
  }).toString();
  return (JSON.parse(text) as { results: Reference[] }).results;
}
