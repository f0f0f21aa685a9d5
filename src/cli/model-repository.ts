import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { InvalidArgumentError } from "../errors";

/** A model of a repository, as its two files describe it. */
export interface RepositoryModel {
  readonly name: string;
  /** The base model as `model.json` names it: usually a path. */
  readonly base: string;
  readonly adapters: readonly { readonly name: string; readonly path: string }[];
}

/**
 * Reads the models of a repository.
 *
 * @param name - the only one to read
 * @throws {@link InvalidArgumentError} for a file that is not a JSON object
 */
export function readRepository(repository: string, name: string | undefined): RepositoryModel[] {
  const has = (model: string) => existsSync(join(repository, model, "1", "model.json"));
  const names = name === undefined ? readdirSync(repository).filter(has) : [name];
  return names.map((model) => {
    const folder = join(repository, model, "1");
    const loras = join(folder, "multi_lora.json");
    return {
      name: model,
      base: String(readJson(join(folder, "model.json"))["model"] ?? ""),
      adapters: Object.entries(existsSync(loras) ? readJson(loras) : {}).map(([adapter, path]) => ({
        name: adapter,
        path: String(path),
      })),
    };
  });
}

function readJson(path: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new InvalidArgumentError(`${path} can't be read: ${(cause as Error).message}`, { cause });
  }
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new InvalidArgumentError(`${path} is not a JSON object`);
}
