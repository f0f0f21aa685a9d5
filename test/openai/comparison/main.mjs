// The same requests to `vllm serve` on loopback and to `model.fetch`: same status, same fields, same text?
//
//   npm run compare:openai            (needs what `npm test` has set up)
//
// Writes the tables of docs/reference/openai.md, and exits with 1 if a difference is not explained there.
import { readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { VllmModel } from "tritonode";
import { differences, read } from "./compare.mjs";
import { generation, pooling } from "./requests.mjs";
import { startServer } from "./server.mjs";

const root = join(import.meta.dirname, "../../..");
const { fixtures, python } = JSON.parse(readFileSync(join(root, ".cache/paths.json"), "utf8"));
const { models, adapters, broken } = JSON.parse(readFileSync(join(fixtures, "fixtures.json"), "utf8"));

const loras = { lora_a: adapters.lora_a, lora_b: adapters.lora_b };
const base = {
  model: models.tiny,
  dtype: "float32",
  max_model_len: 512,
  kv_cache_memory_bytes: 256 << 20,
  enforce_eager: true,
  enable_lora: true,
  max_loras: 2,
  max_cpu_loras: 4,
};
const tools = { enable_auto_tool_choice: true, tool_call_parser: "hermes", tool_strict_level: "parameter" };

/** Differences that are known: the request, why, and which of its fields may differ (all, if nothing is said). */
const explained = {
  "load a broken one": {
    why: "`vllm serve` tries the weights and answers 500; the registry reads the files first and answers 400 with the reason",
  },
  "OpenAPI description": {
    // Python keeps the last 128 generic types and finds `Sequence[Union[float, str]]`, which prometheus_client writes, for
    // the filters' `Sequence[Union[str, float]]`, if it is still there: in `vllm serve` it is. The order in one of two
    // schemas of the same name then differs, and pydantic tells them apart by longer names.
    why: "the schemas of two filters of the file search have shorter names: here `str \\| float` is in the same order in both, and in `vllm serve`, by the order of its imports, it is not",
    fields: /(Comparison|Compound)Filter/,
  },
};

async function send(fetch, request) {
  const headers = request.method === "POST" ? { "content-type": request.contentType ?? "application/json" } : {};
  const body = request.raw ?? (request.body === undefined ? undefined : JSON.stringify(request.body));
  const response = await fetch(request.path, { method: request.method, headers, body });
  return { status: response.status, contentType: response.headers.get("content-type"), text: await response.text() };
}

/** Medians in milliseconds of the same request through each API. */
async function time(model, serve) {
  const { tokens } = await model.tokenize([{ role: "user", content: "Say something." }], {
    add_generation_prompt: true,
  });
  const prompt = await model.detokenize(tokens);
  const rows = {};
  for (const [max_tokens, runs] of [
    [1, 60],
    [64, 12],
  ]) {
    const options = { temperature: 0, max_tokens, ignore_eos: true };
    const request = (body) => ({ method: "POST", path: "/v1/completions", body: { prompt, ...options, ...body } });
    const doors = {
      "Triton's contract (`model.generate`)": () => model.generate(prompt, options),
      "`model.fetch`": () => send(model.fetch, request({})),
      "`vllm serve`, loopback": () => send(serve.fetch, request({})),
      "Triton's contract, streamed (`model.stream`)": async () => {
        for await (const _ of model.stream(prompt, options));
      },
      "`model.fetch`, streamed": () => send(model.fetch, request({ stream: true })),
      "`vllm serve`, streamed": () => send(serve.fetch, request({ stream: true })),
    };
    const samples = Object.fromEntries(Object.keys(doors).map((name) => [name, []]));
    // In turn, so that whatever else the machine does meets all of them.
    for (let run = -3; run < runs; run++) {
      for (const [name, ask] of Object.entries(doors)) {
        const began = performance.now();
        await ask();
        if (run >= 0) samples[name].push(performance.now() - began);
      }
    }
    for (const [name, times] of Object.entries(samples)) {
      times.sort((a, b) => a - b);
      rows[name] ??= [name];
      rows[name].push(times[times.length >> 1].toFixed(1), times[0].toFixed(1));
    }
  }
  return Object.values(rows).map((row) => `| ${row.join(" | ")} |`);
}

async function compare(title, engine, requests, timings) {
  const { enable_lora: _, ...rest } = engine;
  const model = await VllmModel.load({ engine: rest, loras });
  const serve = await startServer(python, { ...engine, served_model_name: [models.tiny, "vllm_model"] }, loras).catch(
    async (error) => {
      await model.dispose();
      throw error;
    },
  );
  const rows = [];
  let unexplained = 0;
  try {
    for (const request of requests) {
      const theirs = read(await send(serve.fetch, request), request);
      const ours = read(await send(model.fetch, request), request);
      const found = differences(ours, theirs);
      const { why, fields = /^/ } = explained[request.what] ?? {};
      const known = why !== undefined && found.every((difference) => fields.test(difference));
      if (found.length > 0 && !known) {
        unexplained++;
        console.log(`${title}: ${request.what}: ${found.slice(0, 8).join("\n    ")}`);
      }
      const verdict = found.length === 0 ? "same" : known ? why : `**differs**: ${found[0]}`;
      rows.push(
        `| ${request.what} | \`${request.method} ${request.path}\` | ${theirs.status} | ${ours.status} | ${verdict} |`,
      );
    }
    const times = timings ? await time(model, serve) : [];
    return { rows, unexplained, times };
  } finally {
    await serve.stop();
    await model.dispose();
  }
}

function replaceBetween(text, name, content) {
  const [begin, end] = [`<!-- ${name} -->`, `<!-- end of ${name} -->`];
  const at = [text.indexOf(begin), text.indexOf(end)];
  if (at.includes(-1)) throw new Error(`docs/reference/openai.md has no place for ${name}`);
  return `${text.slice(0, at[0] + begin.length)}\n${content}\n${text.slice(at[1])}`;
}

const generate = await compare("generation", { ...base, ...tools }, generation({ adapters, broken }), true);
const embed = await compare("pooling", { ...base, runner: "pooling", convert: "embed" }, pooling(), false);

const head = "| request | | `vllm serve` | `model.fetch` | body |\n| --- | --- | --- | --- | --- |";
const docs = join(root, "docs/reference/openai.md");
let text = readFileSync(docs, "utf8");
text = replaceBetween(text, "comparison", [head, ...generate.rows, ...embed.rows].join("\n"));
const columns = "| | 1 token, median ms | least | 64 tokens, median ms | least |\n| --- | --- | --- | --- | --- |";
text = replaceBetween(text, "timings", [columns, ...generate.times].join("\n"));
writeFileSync(docs, text);
const total = generate.rows.length + embed.rows.length;
const unexplained = generate.unexplained + embed.unexplained;
console.log(
  `${total} requests compared on ${cpus().length} cores, ${unexplained} with a difference that is not explained`,
);
process.exitCode = unexplained === 0 ? 0 : 1;
