import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { hasManifest } from "../find/manifest";

/** Marks a venv as tritonode's from its creation: only folders with this mark or with a manifest are ever deleted. */
export const MARKER = "tritonode-runtime";

/** Temporary folders, which only the run that made them needs. */
export const SCRATCH = /^scratch-[A-Za-z0-9]{6}$/;

/** What a runtime's folder contains. */
export interface Contents {
  /** Names of the entries that `setup` made. */
  ours: string[];
  /** Names of everything else. */
  foreign: string[];
  /** `complete`: it has a manifest; `partial`: an interrupted setup or removal left it; `none`: there is no runtime. */
  state: "complete" | "partial" | "none";
}

/** Separates what `setup` made in a folder from everything else. A missing folder counts as empty. */
export function contentsOf(directory: string): Contents {
  let names: string[];
  try {
    names = readdirSync(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    names = [];
  }
  const complete = hasManifest(directory);
  const venv = complete || existsSync(join(directory, "venv", MARKER));
  const isOurs = (name: string) =>
    name === "venv" ? venv : name === "setup.log" || /^(lock|manifest\.json)(\.|$)/.test(name) || SCRATCH.test(name);
  const ours = names.filter(isOurs);
  const foreign = names.filter((name) => !isOurs(name));
  // A log file among other files may belong to something else.
  const partial = ours.some(
    (name) => name === "venv" || SCRATCH.test(name) || (name === "setup.log" && foreign.length === 0),
  );
  return { ours, foreign, state: complete ? "complete" : partial ? "partial" : "none" };
}
