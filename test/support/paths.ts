import { readFileSync } from "node:fs";
import { join } from "node:path";

/** The package's own folder. */
export const root = join(__dirname, "..", "..");

interface Listing {
  models: { tiny: string; tiny_tp: string };
  adapters: Record<string, string>;
  adaptersTp: Record<string, string>;
  broken: Record<string, { path: string; defect: string }>;
}

/** What scripts/test.mjs laid out before it called vitest. */
export const paths = JSON.parse(readFileSync(join(root, ".cache/paths.json"), "utf8")) as {
  fixtures: string;
  workspace: string;
  python: string;
};

/** The tiny models, their adapters, and the broken ones (test/fixtures/make_fixtures.py). */
export const fixtures = JSON.parse(readFileSync(join(paths.fixtures, "fixtures.json"), "utf8")) as Listing;

/** An adapter of the tiny model. */
export function adapter(name: string): string {
  const path = fixtures.adapters[name];
  if (path === undefined) throw new Error(`test/fixtures makes no adapter ${name}`);
  return path;
}
