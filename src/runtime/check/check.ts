/** One line of `doctor`. */
export interface Check {
  /** What was checked, in a few words. */
  name: string;
  /** `warn`: works, but not as well as it could. `fail`: a load would fail, hang or answer wrongly. */
  status: "ok" | "warn" | "fail";
  /** What was found. */
  detail: string;
  /** What to do about it; always set for `fail`. */
  fix?: string;
}

export function ok(name: string, detail: string): Check {
  return { name, status: "ok", detail };
}

export function warn(name: string, detail: string, fix: string): Check {
  return { name, status: "warn", detail, fix };
}

export function fail(name: string, detail: string, fix: string): Check {
  return { name, status: "fail", detail, fix };
}
