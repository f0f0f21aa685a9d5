import { statSync } from "node:fs";
import { relative } from "node:path";
import { shellWord } from "../../common/shell";
import { InvalidArgumentError } from "../../errors";
import { type AdapterDescription, describeAdapters } from "../../model/describe";
import { adapterFolders, isAdapterFolder } from "../adapter-folders";
import { adapterLines } from "../adapter-lines";
import { parse } from "../arguments";
import type { Run } from "../context";
import { readRepository } from "../model-repository";
import { findModel } from "../model-source";
import { inspect as spec } from "../table/models";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const base = values.model === undefined ? undefined : basePath(values.model);
  const found = (await describeAdapters(positionals, base, context)).map(withHint);
  context.stdout.write(
    values.json
      ? found.map((adapter) => `${JSON.stringify(adapter)}\n`).join("")
      : found.map((adapter) => adapterLines(adapter, context)).join("\n"),
  );
  return found.every(({ loadable }) => loadable) ? 0 : 1;
};

/** What to do about a folder that is no adapter but holds some. */
function withHint(adapter: AdapterDescription): AdapterDescription & { hint?: string } {
  const { path } = adapter;
  if (isAdapterFolder(path) || statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return adapter;
  const inside = adapterFolders(path).map((folder) => relative(path, folder));
  if (inside.length === 0) return adapter;
  const names = inside.length > 4 ? [...inside.slice(0, 3), `${inside.length - 3} more`] : inside;
  return { ...adapter, hint: `tritonode adapters ${shellWord(path)} inspects the adapters in it: ${names.join(", ")}` };
}

/** The base model's files; those of a repository are named in its `model.json`. */
function basePath(path: string): string {
  const source = findModel(path);
  if (source.kind !== "repository") return source.path;
  const [model, ...others] = readRepository(source.repository, source.name);
  if (model !== undefined && others.length === 0) return model.base;
  throw new InvalidArgumentError(`--model ${JSON.stringify(path)} holds ${others.length + 1} models`, {
    hint: `name one: ${[model, ...others].map((each) => `${path}/${each?.name}`).join(", ")}`,
  });
}
