import { execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { transformSync } from "@swc/core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { paths, root } from "../support/paths";
import { loadOf, type Snippet, snippetsOf, usesModel } from "../support/snippets";

// Every block of the README and of the guides, as a reader would paste it: TypeScript is type-checked, and programs and
// commands run on the tutorial's model and adapters. A block that cannot run here says why in a comment above it.

const guides = readdirSync(join(root, "docs/guides")).filter((name) => name.endsWith(".md"));
const pages = ["README.md", ...guides.map((name) => `docs/guides/${name}`)];
const snippets = pages.flatMap(snippetsOf);
const programs = snippets.filter(({ language }) => language === "ts" || language === "js");
const commands = snippets.filter(({ language }) => language === "sh");

/** Excerpts of programs, in the pages of the reference: they are type-checked and not run. */
const excerpts = [
  "docs/errors.md",
  ...readdirSync(join(root, "docs/reference"))
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/reference/${name}`),
]
  .flatMap(snippetsOf)
  .filter(({ language }) => language === "ts" || language === "js");

/** What an excerpt uses and the program around it would have. */
const surroundings: Readonly<Record<string, string>> = {
  VllmModel: 'import { VllmModel } from "tritonode";',
  OpenAI: 'import OpenAI from "openai";',
  z: 'import { z } from "zod";',
  readFile: 'import { readFile } from "node:fs/promises";',
  model: 'declare const model: import("tritonode").VllmModel;',
  messages: 'declare const messages: import("openai").OpenAI.ChatCompletionMessageParam[];',
  texts: "declare const texts: string[];",
  lines: "declare const lines: string[];",
  signal: "declare const signal: AbortSignal;",
  modelRepository: "declare const modelRepository: string;",
  log: "declare const log: { warn(fields: object): void };",
};

function around({ code }: Snippet): string {
  const used = Object.keys(surroundings).filter((name) => {
    const declared = new RegExp(`\\b(?:const|using|import) (?:\\{[^}]*)?\\b${name}\\b`).test(code);
    return !declared && new RegExp(`(?<![.\\w"'/])${name}\\b(?!:)`).test(code);
  });
  return used.map((name) => surroundings[name]).join(" ");
}

/** Blocks that are data, or pictures in text. */
const notPrograms = new Set(["", "text", "json", "jsonl", "yaml"]);

/** The model that blocks without a load of their own get; docs/guides/adapters.md loads it. */
const usual = '{engine:{model:"./my-model"},loras:{pirate:"./adapters/pirate",json:"./adapters/json"}}';

// Inside the package's folder, so that its own name resolves to it, for Node and for TypeScript.
const folder = mkdtempSync(join(root, ".cache/documents-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

beforeAll(() => {
  const weights = join(paths.workspace, "weights");
  const links = {
    "my-model": join(weights, "backbone/smollm2-135m-instruct"),
    "my-model.gguf": gguf(),
    model_repository: join(paths.workspace, "model_repository"),
    workspace: paths.workspace,
    "adapters/pirate": join(weights, "loras/alpaca"),
    "adapters/json": join(weights, "loras/bactrian"),
    "node_modules/tritonode": root,
  };
  // npm makes it executable when it installs the package.
  const program = `#!/bin/sh\nexec node "${join(root, "dist/cli/main.js")}" "$@"\n`;
  mkdirSync(join(folder, "node_modules/.bin"), { recursive: true });
  writeFileSync(join(folder, "node_modules/.bin/tritonode"), program, { mode: 0o755 });
  writeFileSync(join(folder, "package.json"), '{ "name": "my-app", "private": true, "type": "module" }');
  // Blocks that are files for other blocks.
  for (const snippet of snippets)
    if (snippet.file !== undefined) writeFileSync(join(folder, snippet.file), toJavaScript(snippet));
  for (const [name, target] of Object.entries(links)) {
    mkdirSync(join(folder, name, ".."), { recursive: true });
    symlinkSync(target, join(folder, name));
  }
});

/** SmolLM2 as a GGUF file, which the tutorial's model is made of. */
function gguf(): string {
  const find = "import make_backbone; print(make_backbone.find_gguf())";
  return execFileSync(paths.python, ["-c", find], { cwd: join(root, "examples/tutorial"), encoding: "utf8" }).trim();
}

function toJavaScript({ language, code }: Snippet): string {
  if (language !== "ts") return code;
  return transformSync(code, { jsc: { parser: { syntax: "typescript" }, target: "es2022" }, module: { type: "es6" } })
    .code;
}

test("each block is run, or says why not", () => {
  const left = snippets.filter(
    ({ language, skipped }) =>
      skipped === undefined && !["ts", "js", "sh"].includes(language) && !notPrograms.has(language),
  );
  expect(left.map(({ at, language }) => `${at} ${language}`)).toEqual([]);
  const skipped = snippets.filter((snippet) => snippet.skipped !== undefined);
  console.log(skipped.map((snippet) => `not run: ${snippet.at} (${snippet.skipped})`).join("\n"));
});

test("TypeScript is well typed", () => {
  const typed = programs.filter(({ language }) => language === "ts");
  const names = new Map(typed.map((snippet, at) => [`typed-${at}.mts`, snippet]));
  for (const [at, snippet] of excerpts.entries()) {
    const name = `typed-${typed.length + at}.mts`;
    names.set(name, snippet);
    writeFileSync(join(folder, name), `${around(snippet)} export {}; ${snippet.code}`);
  }
  for (const [name, snippet] of names) {
    if (excerpts.includes(snippet)) continue;
    const given = usesModel(snippet) ? 'declare const model: import("tritonode").VllmModel;' : "";
    // On one line, so that the lines that the compiler names are the block's.
    writeFileSync(join(folder, name), `${given}export {}; ${snippet.code}`);
  }
  // What the compiler says about this block shows that it read the others.
  writeFileSync(join(folder, "wrong.mts"), 'export const wrong: number = "text";');
  const config = {
    extends: "../../tsconfig.json",
    // Few of the readers' projects set exactOptionalPropertyTypes.
    compilerOptions: { noUnusedLocals: false, exactOptionalPropertyTypes: false },
    include: ["*.mts"],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  const { stdout } = spawnSync(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", folder], {
    encoding: "utf8",
  });
  const errors = stdout.replaceAll(/^\S*?(typed-\d+\.mts)\((\d+),\d+\)/gm, (_, name: string, line: string) => {
    const [page, fence] = (names.get(name)?.at ?? name).split(":");
    return `${page}:${Number(fence) + Number(line)}`;
  });
  expect(errors.replace(/^\S*wrong\.mts/m, "wrong.mts")).toBe(
    "wrong.mts(1,14): error TS2322: Type 'string' is not assignable to type 'number'.\n",
  );
});

interface Outcome {
  module: string;
  output: string;
  error?: string;
}

/** The route of the page about Next.js, called as Next calls it. */
const route: Snippet = {
  at: "docs/guides/nextjs.md: its route",
  language: "js",
  file: undefined,
  skipped: undefined,
  code: `import { POST } from "./route.mjs";
const messages = [{ role: "user", content: "What is the capital of France?" }];
const body = JSON.stringify({ messages, lora: "json" });
console.log(await (await POST(new Request("http://localhost/api/chat", { method: "POST", body }))).text());
await (await globalThis.model).dispose();
`,
};

// One engine for all blocks that load the same model, or none of their own.
const groups = new Map<string, Snippet[]>();
for (const snippet of [...programs, route]) {
  if (snippet.skipped !== undefined || snippet.file !== undefined) continue;
  const load = loadOf(snippet) ?? usual;
  groups.set(load, [...(groups.get(load) ?? []), snippet]);
}

describe.each([...groups].map(([load, group], at) => ({ load, group, at })))(
  "programs on $load",
  ({ load, group, at }) => {
    const modules = group.map((_, number) => `program-${at}-${number}.mjs`);
    const outcomes = new Map<string, Outcome>();

    beforeAll(async () => {
      const hold = group.length === 1 || load.includes(";") ? "-" : `hold-${at}.mjs`;
      if (hold !== "-") {
        const code = `import { VllmModel } from "tritonode";\nexport default await VllmModel.load(${load});\n`;
        writeFileSync(join(folder, hold), code);
      }
      for (const [number, snippet] of group.entries()) {
        const given = usesModel(snippet) ? "const { model } = given;" : "";
        writeFileSync(join(folder, modules[number] as string), `${given}${toJavaScript(snippet)}`);
      }
      const runner = join(root, "test/support/snippet-runner.mjs");
      const child = spawn(process.execPath, [runner, hold, ...modules], {
        cwd: folder,
        stdio: ["ignore", "pipe", "inherit"],
      });
      for await (const line of createInterface({ input: child.stdout })) {
        const outcome = JSON.parse(line) as Outcome;
        outcomes.set(outcome.module, outcome);
      }
    });

    test.each(group.map(({ at: place, code }, number) => [place, code, modules[number] as string] as const))(
      "%s",
      (_, code, module) => {
        const outcome = outcomes.get(module);
        expect(outcome, "the process ended before it").toBeDefined();
        expect(outcome?.error).toBeUndefined();
        // Each block shows something, unless it is about what it changes or listens to.
        if (/^(console\.log|(for .*| {2})process\.stdout\.write)/m.test(code))
          expect(outcome?.output.trim()).not.toBe("");
      },
    );
  },
);

describe("commands", () => {
  // What several pages show is run once.
  const once = new Map(
    commands.filter(({ skipped }) => skipped === undefined).map((snippet) => [snippet.code, snippet.at]),
  );

  test.each([...once].map(([code, at]) => [at, code] as const))("%s", (_, code) => {
    const { stdout, stderr, status } = spawnSync("bash", ["-e", "-c", code], { cwd: folder, encoding: "utf8" });
    expect(status, stderr).toBe(0);
    expect(stdout.trim()).not.toBe("");
  });
});
