import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { steps } from "./plan.mjs";

const [begin, end] = ["<!-- results: begin -->", "<!-- results: end -->"];

/** Puts the results between the two marks of `<folder>/gpu.md`; a folder without that page gets one of results alone. */
export function writePage(folder, content) {
  const path = join(folder, "gpu.md");
  const page = existsSync(path) ? readFileSync(path, "utf8") : `# On a GPU\n\n${begin}\n${end}\n`;
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`${path} has no lines ${begin} and ${end}`);
  writeFileSync(path, `${page.slice(0, from)}${begin}\n\n${results(content)}\n${page.slice(to)}`);
}

/** The results as Markdown. @param content what gpu-results.json holds; undefined: nothing was run */
export function results(content) {
  if (content === undefined || content.machine.gpu === null) {
    const instead = content === undefined ? "" : " What follows was run on a CPU: it says that the steps work.\n\n";
    return `Not run on a GPU yet.${instead}${content === undefined ? "\n" : table(content)}`;
  }
  return table(content);
}

function table({ machine, steps: done }) {
  const { gpu, cpu, cores, memoryGiB, node, vllm, torch, cuda, model } = machine;
  const device = gpu === null ? "no GPU" : `${gpu.name} (${gpu.memory}, driver ${gpu.driver}, CUDA ${cuda})`;
  const lines = [
    `${device}; ${cpu}, ${cores} cores, ${memoryGiB} GiB; vLLM ${vllm}, torch ${torch}, Node ${node}; ${model}.`,
    "",
    "| step | result | s | figures |",
    "| --- | --- | --- | --- |",
  ];
  for (const { name, title } of steps) {
    const step = done[name];
    if (step === undefined) continue;
    const result = step.status === "passed" ? "passes" : `**${step.status}**: ${cell(step.reason)}`;
    lines.push(`| ${title} | ${result} | ${step.seconds ?? ""} | ${cell(figures(name, step))} |`);
  }
  return `${lines.join("\n")}\n${engines(done)}`;
}

function figures(name, step) {
  if (name.startsWith("load-")) return say(step, { loadSeconds: "load % s", kvCacheTokens: "KV cache % tokens" });
  if (name.startsWith("exact-")) {
    if (step.texts === undefined) return "";
    return `${step.equalTexts} of ${step.texts} texts, ${step.equalTokens} of ${step.tokens} tokens before a difference`;
  }
  if (name === "streams") {
    return say(step, {
      tokensPerSecond: `${step.streams} streams: % tokens/s`,
      idleAfterLeavingMs: "idle % ms after a stream was left",
      idleAfterAbortMs: "% ms after an abort",
    });
  }
  if (name.startsWith("release-")) {
    return say(step, { loadedMiB: "% MiB loaded", leftMiB: "% MiB left", milliseconds: "after % ms" });
  }
  return name.startsWith("engine-") ? say(step, { loadSeconds: "start % s" }) : "";
}

/** The figures that are there, each in its sentence. */
function say(step, sentences) {
  return Object.entries(sentences)
    .filter(([name]) => step[name] !== undefined)
    .map(([name, sentence]) => sentence.replace("%", String(step[name])))
    .join(", ");
}

/** The three engines side by side. */
function engines(done) {
  const peers = { "engine-thread": "on a thread", "engine-process": "in a process", "engine-server": "vLLM's server" };
  const present = Object.keys(peers).filter((name) => done[name]?.workloads !== undefined);
  const first = done[present[0]];
  if (first === undefined) return "";
  const lines = [
    "",
    "Tokens/s; first token, gap between pieces (median, 99th percentile) in ms:",
    "",
    `| | ${present.map((name) => peers[name]).join(" | ")} |`,
    `| --- |${" --- |".repeat(present.length)}`,
  ];
  for (const workload of Object.keys(first.workloads)) {
    const cells = present.map((name) => {
      const found = done[name].workloads[workload];
      if (found === undefined) return "";
      return `${found.tokensPerSecond}; ${found.firstTokenMs}, ${found.gapP50Ms}, ${found.gapP99Ms}`;
    });
    lines.push(`| ${workload} | ${cells.join(" | ")} |`);
  }
  return `${lines.join("\n")}\n`;
}

function cell(text) {
  return String(text ?? "")
    .replaceAll("|", "\\|")
    .replaceAll("\n", " ");
}
