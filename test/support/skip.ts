import type { TestOptions } from "vitest";

declare module "vitest" {
  interface TaskMeta {
    /** Why a test is skipped; scripts/skipped.mjs lists it after the run. */
    skipReason?: string;
  }
}

/** Options of a test, or a group of tests, that can run only where something holds; `reason` says why it cannot. */
export function unless(missing: boolean, reason: string): TestOptions {
  return missing ? { skip: true, meta: { skipReason: reason } } : {};
}

/** Options of a long test that `npm test` leaves to `npm run chaos`. */
export const chaosOnly = unless(process.env["TRITONODE_CHAOS"] === undefined, "takes long, runs by `npm run chaos`");
