import { existsSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { AddonLoadError, PackageFilesError } from "../errors";
import { packageRoot } from "../package-root";
import { addonCandidates, explainFailure, openAddon, warmLibraryCandidates } from "./addon-file";
import type { EventTable } from "./events";

/** What `start` hands to the server; see `native/triton/server_options.h` for the meaning of Triton's own options. */
export interface NativeStartOptions {
  library: string;
  dependencyDirectory?: string | undefined;
  privateDirectory: string;
  shmPrefix: string;
  pythonBackend: string;
  repairsOff: string[];
  description: string;
  serverId: string;
  backendDirectory: string;
  repoAgentDirectory?: string | undefined;
  modelRepositories: string[];
  backendConfig: [backend: string, setting: string, value: string][];
  logInfo: boolean;
  logWarn: boolean;
  logError: boolean;
  logVerbose: number;
  exitTimeoutSeconds: number;
  bufferManagerThreads: number;
  modelLoadThreads: number;
  pinnedMemoryPoolBytes: number;
  cudaMemoryPoolBytes: number[];
  minComputeCapability: number;
  strictReadiness: boolean;
  metrics: boolean;
  gpuMetrics: boolean;
  cpuMetrics: boolean;
  metricsIntervalMs: number;
}

/** A request as the addon takes it: `datatype` is the API's number, `parameters` alternate name and value. */
export interface NativeRequest {
  model: string;
  version?: number | undefined;
  id?: string | undefined;
  priority?: number | undefined;
  flags?: number | undefined;
  correlationId?: number | string | undefined;
  inputs: { name: string; datatype: number; shape: number[]; data: unknown }[];
  outputs?: string[] | undefined;
  parameters?: unknown[] | undefined;
  raw?: boolean | undefined;
  background?: boolean | undefined;
}

/** The functions of `native/node/addon.cc`, one to one. */
export interface Addon {
  /** What the events that `initialize`'s `deliver` gets look like. */
  readonly eventTable: EventTable;
  initialize(deliver: (batch: unknown[]) => void, isMainThread: boolean): void;
  acquire(): Promise<string | undefined>;
  start(options: NativeStartOptions): Promise<void>;
  release(): Promise<boolean>;
  isLive(): Promise<boolean>;
  isReady(): Promise<boolean>;
  isModelReady(name: string, version?: number): Promise<boolean>;
  metadata(): Promise<string>;
  modelMetadata(name: string, version?: number): Promise<string>;
  modelConfig(name: string, version?: number): Promise<string>;
  modelStatistics(name: string, version?: number): Promise<string>;
  repositoryIndex(readyOnly: boolean): Promise<string>;
  metrics(): Promise<string>;
  loadModel(name: string, config?: string, files?: [path: string, bytes: Uint8Array][]): Promise<void>;
  hold(): void;
  unhold(): void;
  unloadModel(name: string, dependents: boolean): Promise<void>;
  registerRepository(path: string): Promise<void>;
  unregisterRepository(path: string): Promise<void>;
  infer(request: NativeRequest): number;
  cancel(call: number): void;
  abandon(call: number): void;
  watchProcess(pid: number, text?: string): boolean;
  endChild(pid: number): void;
  holdWarmChild(key: string): void;
  startWarmChild(key: string): Promise<number>;
  warmChildEnded(key: string): Promise<void>;
  releaseWarmChild(key: string): void;
  ownerOf(lock: string): "lives" | "gone" | undefined;
  abandonOrphans(model: string): void;
  allowEnd(pid: number): void;
  noteStuck(): void;
  liveCalls(): number;
  openFifo(path: string): number;
  acquireShared(name: string, key: string): Promise<string | undefined>;
  retakeShared(name: string): Promise<boolean>;
  settleShared(name: string, description?: string): void;
  releaseShared(name: string): Promise<boolean>;
}

/** @throws {@link PackageFilesError} where the package lacks it. */
export function warmLibrary(): string {
  const candidates = warmLibraryCandidates(packageRoot());
  const found = candidates.find((path) => existsSync(path));
  if (found !== undefined) return realpathSync(found);
  throw new PackageFilesError(`there is no libtritonode_warm.so; looked for ${candidates.join(", ")}`, {
    hint: "install the package again, or build it here: npx tritonode build",
  });
}

let addon: Addon | undefined;

/**
 * The native addon, loaded at the first call: importing the package touches nothing native.
 *
 * @throws {@link AddonLoadError} with each place where it was looked for, and why it was not loaded from there.
 */
export function loadAddon(): Addon {
  if (addon !== undefined) return addon;
  const root = packageRoot();
  // Relative to a file that exists: a bundler would put its own there.
  const load = createRequire(join(root, "package.json")) as (path: string) => Addon;
  const loaded = openAddon(addonCandidates(root), load);
  if (Array.isArray(loaded)) {
    const { reason, hint } = explainFailure(loaded, root);
    throw new AddonLoadError(reason, { hint });
  }
  addon = loaded;
  return addon;
}
