/** The parts of a machine that decide whether the prebuilt addon and Triton's libraries run on it. */
export interface Host {
  readonly platform: NodeJS.Platform;
  readonly arch: string;
  /** The running glibc's version; undefined for musl and outside Linux. */
  readonly glibc: string | undefined;
}

/** Why tritonode can't run on a machine, and what to do instead: one line each. */
export interface Obstacle {
  readonly reason: string;
  readonly hint: string;
}

/** Triton's wheel is manylinux_2_35: Ubuntu 22.04, Debian 12 and later. */
export const GLIBC_MINIMUM = [2, 35] as const;

let glibc: { version: string | undefined } | undefined;

/** The machine that this process runs on. */
export function thisHost(): Host {
  // A report takes a millisecond or more, and the C library does not change.
  glibc ??= { version: process.platform === "linux" ? runningGlibc() : undefined };
  return { platform: process.platform, arch: process.arch, glibc: glibc.version };
}

/** The report's header names glibc only where Node was linked with it. */
function runningGlibc(): string | undefined {
  const { report } = process as { report?: NodeJS.ProcessReport & { excludeNetwork?: boolean } };
  if (report === undefined) return undefined;
  // A report looks up the names of connected peers, which may take seconds.
  const { excludeNetwork } = report;
  if (excludeNetwork !== undefined) report.excludeNetwork = true;
  try {
    const { header } = report.getReport() as { header?: { glibcVersionRuntime?: string } };
    return header?.glibcVersionRuntime;
  } finally {
    if (excludeNetwork !== undefined) report.excludeNetwork = excludeNetwork;
  }
}

/** `linux-x64, glibc 2.36`, for messages. */
export function describeHost({ platform, arch, glibc }: Host = thisHost()): string {
  if (platform !== "linux") return `${platform}-${arch}`;
  return `${platform}-${arch}, ${glibc === undefined ? "no glibc (musl)" : `glibc ${glibc}`}`;
}

/** What keeps tritonode from running on this machine whatever is installed; undefined where nothing does. */
export function hostObstacle(host: Host = thisHost()): Obstacle | undefined {
  const { platform, arch, glibc } = host;
  if (platform === "win32") {
    return {
      reason: `tritonode runs on Linux, and this is Windows (${describeHost(host)})`,
      hint: "use WSL2 (wsl --install, then install Node.js and tritonode in it), or a Linux container",
    };
  }
  if (platform !== "linux") {
    const name = platform === "darwin" ? "macOS" : platform;
    return {
      reason: `tritonode runs on Linux, and this is ${name} (${describeHost(host)})`,
      hint: "use a Linux container, for example: docker run -it --shm-size=1g node:24-bookworm",
    };
  }
  if (arch !== "x64" && arch !== "arm64") {
    return {
      reason: `Triton's libraries come for x64 and arm64, and this is ${arch} (${describeHost(host)})`,
      hint: "use a machine or a container of one of them",
    };
  }
  const container = "use a container with glibc, for example node:24-bookworm in place of node:24-alpine";
  if (glibc === undefined) {
    return {
      reason: `Triton's libraries need glibc, and this Linux has musl (${describeHost(host)})`,
      hint: container,
    };
  }
  if (!atLeast(glibc, GLIBC_MINIMUM)) {
    return {
      reason: `Triton's libraries need glibc ${GLIBC_MINIMUM.join(".")}, and this Linux has ${glibc}`,
      hint: "use Ubuntu 22.04, Debian 12 or later, or a container of one of them, for example node:24-bookworm",
    };
  }
  return undefined;
}

/** Compares the first two numbers of a version. */
export function atLeast(version: string, [major, minor]: readonly [number, number]): boolean {
  const [first = 0, second = 0] = version.split(/[.-]/).map(Number);
  return first > major || (first === major && second >= minor);
}
