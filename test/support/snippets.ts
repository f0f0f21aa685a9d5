import { readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./paths";

/** A fenced block of a page. */
export interface Snippet {
  /** `<page>:<line>`, the line of the fence. */
  readonly at: string;
  /** `ts`, `js`, `sh`, `json`, `python`, …; empty for a fence without one. */
  readonly language: string;
  /** A file that the block is the content of: the second word of the fence. */
  readonly file: string | undefined;
  readonly code: string;
  /** Why it is not run, from the comment `<!-- not run: … -->` above the fence. */
  readonly skipped: string | undefined;
}

/** The blocks of a page, in their order. @param page - a path inside the package's folder */
export function snippetsOf(page: string): Snippet[] {
  const found: Snippet[] = [];
  const lines = readFileSync(join(root, page), "utf8").split("\n");
  for (let line = 0; line < lines.length; line++) {
    const fence = /^```(\S*)(?: (\S+))?$/.exec(lines[line] ?? "");
    if (fence === null) continue;
    const end = lines.indexOf("```", line + 1);
    if (end < 0) throw new Error(`${page}:${line + 1} is a fence that does not end`);
    found.push({
      at: `${page}:${line + 1}`,
      language: fence[1] ?? "",
      file: fence[2],
      code: `${lines.slice(line + 1, end).join("\n")}\n`,
      skipped: /^<!-- not run: (.+) -->$/.exec(lines[line - 1] ?? "")?.[1],
    });
    line = end;
  }
  return found;
}

/** Whether a block uses the `model` that an earlier block of its page loaded. The tests give it one. */
export function usesModel({ code }: Snippet): boolean {
  return /\bmodel[.)]/.test(code) && !/VllmModel\.load|loadModel/.test(code);
}

/**
 * The options of a block's call of `VllmModel.load`, as far as they make another model, in one form: blocks with the same
 * run on one engine. Undefined where it loads none.
 */
export function loadOf({ code }: Snippet): string | undefined {
  const calls = [...code.matchAll(/VllmModel\.load\((\{[\s\S]*?\})\)/g)].map(([, options = ""]) =>
    options
      .replaceAll(/^\s*(?:onProgress|logger): .*$/gm, "")
      .replaceAll(/\s+/g, "")
      .replaceAll(/,(?=[}\]])/g, ""),
  );
  return calls.length === 0 ? undefined : calls.join(";");
}
