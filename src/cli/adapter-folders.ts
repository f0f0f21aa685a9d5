import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";

/** How many levels of subfolders are searched for adapters. */
const DEPTH = 3;

/** Whether PEFT wrote this folder. */
export function isAdapterFolder(folder: string): boolean {
  return existsSync(join(folder, "adapter_config.json"));
}

/** The folders of adapters in a folder, at most three levels below it, or the folder itself. Sorted by name. */
export function adapterFolders(folder: string, depth = DEPTH): string[] {
  if (isAdapterFolder(folder)) return [folder];
  if (depth === 0) return [];
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && !entry.name.startsWith("."))
    .sort((a, b) => a.name.localeCompare(b.name))
    .flatMap((entry) => adapterFolders(join(folder, entry.name), depth - 1));
}
