import { existsSync } from "node:fs";
import { InvalidArgumentError } from "../../errors";
import { SetupError } from "../errors";
import { onPath } from "../find/python";
import { run } from "../process";
import { pipEnvironment } from "./pip";
import { uvResolves } from "./uv";

/** The program that installs the Python packages. */
export interface Installer {
  /** The program. */
  name: "uv" | "pip";
  /** Path of uv; pip is part of the runtime's own environment. */
  program: string | undefined;
  /** Why this one was chosen, in a few words. */
  reason: string;
  /** The configured sources of packages, without credentials. */
  sources: string[];
}

export interface InstallerOptions {
  /** `auto`: uv if it is installed and finds all packages where pip would, else pip. */
  installer: string | undefined;
  /** The interpreter whose pip configuration is read, and for which uv resolves. */
  python: string;
  /** All pins to install; the first is torch. */
  pins: readonly string[];
  torchIndexes: readonly (string | undefined)[];
  offline: string | undefined;
  environment: NodeJS.ProcessEnv;
  signal: AbortSignal | undefined;
}

/** pip's settings about where packages come from. */
const PIP_SOURCES = ["index-url", "extra-index-url", "find-links", "no-index"];
const UV_SOURCES = ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS"];

/**
 * Chooses between uv and pip. A company's index is in pip's configuration far more often than in uv's, and uv does
 * not read pip's. So uv is chosen automatically only if pip has no such setting, or uv has its own.
 *
 * @throws {@link SetupError} if uv is requested and not installed
 */
export async function chooseInstaller(options: InstallerOptions): Promise<Installer> {
  const { environment, offline } = options;
  const wanted = options.installer ?? environment.TRITONODE_INSTALLER ?? "auto";
  if (!["auto", "uv", "pip"].includes(wanted)) {
    throw new InvalidArgumentError(`installer ${JSON.stringify(wanted)} is not known`, { hint: "use uv or pip" });
  }
  const program = uvProgram(environment);
  const uvOwn = UV_SOURCES.flatMap((name) => words(environment[name]));
  const uv = (reason: string): Installer => ({
    name: "uv",
    program,
    reason,
    sources: offline !== undefined ? [offline] : uvOwn.length > 0 ? uvOwn.map(withoutCredentials) : ["PyPI"],
  });
  if (wanted === "uv") {
    if (program !== undefined) return uv("as asked for");
    throw new SetupError(`uv is not ${environment.TRITONODE_UV ? `at ${environment.TRITONODE_UV}` : "on PATH"}`, {
      hint: "install uv, name its program in TRITONODE_UV, or use --installer pip",
    });
  }
  const pipOwn = offline === undefined ? await pipSources(options) : [];
  const pip = (reason: string): Installer => {
    const index = pipOwn.some(([key]) => key === "index-url" || key === "no-index") ? [] : ["PyPI"];
    const own = pipOwn.flatMap(([key, value]) => (key === "no-index" ? [] : words(value))).map(withoutCredentials);
    return { name: "pip", program: undefined, reason, sources: offline !== undefined ? [offline] : [...index, ...own] };
  };
  if (wanted === "pip") return pip("as asked for");
  if (program === undefined) return pip("uv is not on PATH");
  if (pipOwn.length > 0 && uvOwn.length === 0) return pip("pip's configuration names sources that uv does not read");
  if (offline === undefined) {
    const flaw = await uvResolves({ ...options, program });
    if (flaw !== undefined) return pip(`uv does not find the whole set: ${flaw}`);
  }
  return uv(program);
}

function uvProgram(environment: NodeJS.ProcessEnv): string | undefined {
  const named = environment.TRITONODE_UV;
  if (!named) return onPath("uv", environment);
  const path = onPath(named, environment);
  return path !== undefined && existsSync(path) ? path : undefined;
}

/** `[setting, value]` pairs from pip's files and PIP_ variables about where packages come from. */
async function pipSources(options: InstallerOptions): Promise<[key: string, value: string][]> {
  const { environment, signal, python } = options;
  const result = await run(python, ["-m", "pip", "config", "list"], {
    environment: pipEnvironment(environment, false),
    signal,
    timeout: 30_000,
    cwd: "/",
  });
  const listed: [string, string][] = [...result.stdout.matchAll(/^[^.\n]+\.([a-z-]+)=(.*)$/gm)].map((match) => [
    match[1] ?? "",
    (match[2] ?? "").replace(/^(['"])(.*)\1$/, "$2"),
  ]);
  // A Python without its own pip (Debian's) cannot report pip's configuration, so only the variables are known.
  const variables = PIP_SOURCES.map((key): [string, string] => [
    key,
    environment[`PIP_${key.toUpperCase().replaceAll("-", "_")}`] ?? "",
  ]);
  const all = result.code === 0 ? listed : variables;
  const sources = all.filter(([key, value]) => PIP_SOURCES.includes(key) && words(value).length > 0);
  return sources.filter(
    ([key, value], at) => sources.findIndex((other) => other[0] === key && other[1] === value) === at,
  );
}

function words(text: string | undefined): string[] {
  return (text ?? "").split(/[\s,]+|\\n/).filter((word) => word !== "");
}

/** `https://user:token@host/` → `https://***@host/`. */
export function withoutCredentials(url: string): string {
  return url.replace(/\/\/[^/@]*@/, "//***@");
}
