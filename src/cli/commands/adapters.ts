import { existsSync, statSync } from "node:fs";
import { basename, dirname, join, relative, resolve } from "node:path";
import { InvalidArgumentError } from "../../errors";
import { describeAdapters } from "../../model/describe";
import { adapterFolders } from "../adapter-folders";
import { adapterLines } from "../adapter-lines";
import { parse } from "../arguments";
import type { Run } from "../context";
import { readRepository } from "../model-repository";
import { adapters as spec } from "../table/models";

interface Listed {
  readonly name: string;
  readonly path: string;
  /** The base model that it is served on. */
  readonly base?: string | undefined;
}

export const run: Run = async (args, context) => {
  const { values, positionals } = parse(spec, args);
  const path = resolve(positionals[0] ?? "model_repository");
  const listed = list(path, positionals[0]);
  const bases = [...new Set(listed.map(({ base }) => base))];
  const byPath = new Map(
    (
      await Promise.all(
        bases.map(async (base) => {
          const of = listed.filter((adapter) => adapter.base === base);
          const found = await describeAdapters(
            of.map((adapter) => adapter.path),
            base,
            context,
          );
          return of.map((adapter, index) => [adapter, found[index]] as const);
        }),
      )
    ).flat(),
  );
  let loadable = true;
  for (const adapter of listed) {
    const found = byPath.get(adapter);
    if (found === undefined) continue;
    loadable &&= found.loadable;
    const { name } = adapter;
    context.stdout.write(values.json ? `${JSON.stringify({ name, ...found })}\n` : adapterLines(found, context, name));
  }
  if (listed.length === 0 && !values.json) context.stderr.write(`there are no adapters in ${path}\n`);
  return loadable ? 0 : 1;
};

function list(path: string, given: string | undefined): Listed[] {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) {
    const missing = given === undefined ? "PATH is missing, and " : "";
    throw new InvalidArgumentError(`${missing}there is no folder ${path}`, {
      hint: "name a model repository, or a folder with adapters' folders below it",
    });
  }
  const inModel = existsSync(join(path, "1", "model.json"));
  const models = inModel ? readRepository(dirname(path), basename(path)) : readRepository(path, undefined);
  if (models.length > 0) {
    return models.flatMap(({ name: model, base, adapters }) =>
      adapters.map(({ name, path: folder }) => ({
        name: models.length > 1 ? `${model}/${name}` : name,
        path: folder,
        base: existsSync(base) ? base : undefined,
      })),
    );
  }
  return adapterFolders(path).map((folder) => ({ name: relative(path, folder) || basename(path), path: folder }));
}
