import { InvalidArgumentError } from "../../errors";
import { describeAdapters } from "../../model/describe";
import { adapterLines } from "../adapter-lines";
import { parse } from "../arguments";
import type { Run } from "../context";
import { readRepository } from "../model-repository";
import { findModel } from "../model-source";
import { inspect as spec } from "../table/models";

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const base = values.model === undefined ? undefined : basePath(values.model);
  const found = await describeAdapters(positionals, base, context);
  context.stdout.write(
    values.json
      ? found.map((adapter) => `${JSON.stringify(adapter)}\n`).join("")
      : found.map((adapter) => adapterLines(adapter, context)).join("\n"),
  );
  return found.every(({ loadable }) => loadable) ? 0 : 1;
};

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
