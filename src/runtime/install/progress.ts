/** The steps of `setup`, in order. */
export type SetupPhase = "wait" | "python" | "environment" | "download" | "install" | "check" | "done";

/** A step of `setup` or `bundle`. */
export interface SetupProgress {
  /** Which step it is. */
  phase: SetupPhase;
  /** The current package, without its version. */
  package?: string;
  /** This package is the index-th (from 1) of `count`. */
  index?: number;
  /** Packages in all. */
  count?: number;
  /** Bytes of this package so far, and in total. */
  receivedBytes?: number;
  /** Bytes of this package in total, if the index says so. */
  totalBytes?: number;
  /** The same in words, for a log. */
  message: string;
}

/** Called with each step of {@link setup} and {@link bundle}. */
export type OnSetupProgress = (progress: SetupProgress) => void;

/** What pip does with a package, by the first word of its line about it: a wheel in a folder is not downloaded. */
const ACTIONS = {
  Collecting: { phase: "download", verb: "downloading" },
  Processing: { phase: "install", verb: "reading" },
} as const;

/**
 * Turns pip's output into {@link SetupProgress}. Understands pip 23 and later: `Collecting` and `Processing`
 * lines with the requirement's line number, the `Progress N of M` lines of `--progress-bar raw`
 * (since pip 24.1), and the line that lists what is about to be installed.
 */
export class PipOutput {
  /** What pip is about to install, in its order; set when everything is downloaded. */
  installing: string[] | undefined;
  private current: { name: string; index: number | undefined } | undefined;

  constructor(
    private readonly count: number,
    private readonly report: OnSetupProgress,
  ) {}

  /** Reads one line of pip's stdout. */
  line(text: string): void {
    const bytes = /^\s*Progress (\d+) of (\d+)/.exec(text);
    if (bytes !== null) {
      if (this.current !== undefined) this.bytes(this.current, Number(bytes[1]), Number(bytes[2]));
      return;
    }
    const [, what, name] = /^\s*(Collecting|Processing) (\S+?)(?:[<>=!~;[]\S*)?(?: |$)/.exec(text) ?? [];
    if (name !== undefined) {
      const line = /\(line (\d+)\)/.exec(text)?.[1];
      const index = line === undefined ? undefined : Number(line);
      this.start(packageName(name), index, what as keyof typeof ACTIONS);
      return;
    }
    const installing = /^Installing collected packages: (.+)$/.exec(text);
    if (installing?.[1] !== undefined) this.installing = installing[1].split(", ").map((name) => name.trim());
  }

  private start(name: string, index: number | undefined, action: keyof typeof ACTIONS): void {
    this.current = { name, index };
    const { count } = this;
    const { phase, verb } = ACTIONS[action];
    this.report({
      phase,
      package: name,
      ...(index === undefined ? {} : { index, count }),
      message: index === undefined ? `${verb} ${name}` : `${verb} ${name} (${index} of ${count})`,
    });
  }

  private bytes(current: { name: string; index: number | undefined }, receivedBytes: number, totalBytes: number): void {
    const { name, index } = current;
    this.report({
      phase: "download",
      package: name,
      ...(index === undefined ? {} : { index, count: this.count }),
      receivedBytes,
      totalBytes,
      message: `downloading ${name}: ${formatBytes(receivedBytes)} of ${formatBytes(totalBytes)}`,
    });
  }
}

/** The distribution's name in a requirement (`a.b==1`), a wheel's path or a wheel's file name; lower case, `-`. */
export function packageName(text: string): string {
  const file = text.slice(text.lastIndexOf("/") + 1);
  const name = file.endsWith(".whl") || file.endsWith(".tar.gz") ? (file.split("-")[0] ?? file) : file;
  return (/^[A-Za-z0-9._-]+/.exec(name)?.[0] ?? name).toLowerCase().replace(/[-_.]+/g, "-");
}

/** `1536` → `1.5 kB`. Decimal units, as pip prints them. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = -1;
  do {
    value /= 1000;
    unit++;
  } while (value >= 999.95 && unit < units.length - 1);
  return `${value.toFixed(1)} ${units[unit]}`;
}
