import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { namesIn } from "../common/files";

/** Whether a text has the form of a model's name on the Hugging Face Hub: `owner/name`, or `name` for the oldest models. */
export function isHubName(text: string): boolean {
  return /^[\w-][\w.-]*(\/[\w-][\w.-]*)?$/.test(text) && !text.includes("--") && !text.includes("..");
}

/** The folder in which huggingface_hub keeps downloaded models. */
export function hubCache(environment: NodeJS.ProcessEnv): string {
  const { HF_HUB_CACHE: hub, HUGGINGFACE_HUB_CACHE: old, HF_HOME: home, XDG_CACHE_HOME: cache } = environment;
  return hub || old || join(home || join(cache || join(environment.HOME || homedir(), ".cache"), "huggingface"), "hub");
}

/**
 * The folder of a downloaded model in the hub's cache, as `hf download` and transformers leave it.
 *
 * @param name - the model's name on the hub
 * @param revision - a branch, a tag or a commit. Default: the one that was downloaded
 */
export function cachedModel(name: string, environment: NodeJS.ProcessEnv, revision = "main"): string | undefined {
  if (!isHubName(name)) return undefined;
  const folder = join(hubCache(environment), `models--${name.replace("/", "--")}`);
  const snapshots = namesIn(join(folder, "snapshots"));
  const commit = referenced(join(folder, "refs"), revision) ?? revision;
  const found = snapshots.includes(commit) ? commit : snapshots.length === 1 ? snapshots[0] : undefined;
  return found === undefined ? undefined : join(folder, "snapshots", found);
}

function referenced(refs: string, revision: string): string | undefined {
  const file = join(refs, revision);
  return !revision.includes("..") && existsSync(file) ? readFileSync(file, "utf8").trim() : undefined;
}
