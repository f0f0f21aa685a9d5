import { open } from "./model.mjs";

/** Every check of `doctor`; fails with those that fail. */
export async function doctor({ directory }) {
  const { doctor: examine } = open();
  const checks = {};
  const flaws = [];
  for await (const { name, status, detail } of examine({ directory })) {
    checks[name] = `${status}: ${detail}`;
    if (status === "fail") flaws.push(`${name}: ${detail}`);
  }
  if (flaws.length > 0) throw Object.assign(new Error(flaws.join("; ")), { figures: { checks } });
  return { checks };
}
