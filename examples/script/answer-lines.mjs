// A local script: read lines from stdin, answer each with an adapter, several at a time.
//
//   node answer-lines.mjs <model repository> <adapter> < questions.txt
import { createInterface } from "node:readline";
import { VllmModel } from "tritonode";

const [modelRepository, lora] = process.argv.slice(2);
const model = await VllmModel.load({ modelRepository });
try {
  const answers = [];
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim() !== "") answers.push(model.generate(line, { lora, temperature: 0, max_tokens: 60 }));
  }
  // vLLM puts them into batches; the order of the lines is kept here.
  for (const answer of answers) console.log((await answer).text.trim());
} finally {
  await model.dispose();
}
