// The program that esbuild, webpack and Vite each bundle: a model repository and an adapter in, one answer out.
import { VllmModel } from "tritonode";

const [modelRepository, lora] = process.argv.slice(2);

async function main() {
  const model = await VllmModel.load({ modelRepository });
  try {
    const { text, usage } = await model.generate("Hello, my name is", { lora, max_tokens: 4, ignore_eos: true });
    console.log(JSON.stringify({ text, tokens: usage.completionTokens }));
  } finally {
    await model.dispose();
  }
}

main().catch((error) => {
  console.error(`${error.code}: ${error.message}\n${error.hint}`);
  process.exitCode = 1;
});
