import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect } from "vitest";
import type { VllmModelOptions } from "../../src";
import { root } from "./paths";
import { processTree } from "./sockets";
import { until } from "./triton";

export interface Step {
  do: string;
  [argument: string]: unknown;
}

/** A line that test/support/host-child.cjs wrote. */
export interface Report {
  step: string;
  took: number;
  error?: { class: string; code: string; message: string; hint?: string };
  children?: number[];
  directory?: string;
  prefix?: string;
  [name: string]: unknown;
}

export interface HostOptions {
  /** Put before node's path: a wrapper such as `unshare -n`. */
  wrapper?: string[];
  env?: NodeJS.ProcessEnv;
  timeout?: number;
}

/** A Node process of its own that loads a model and goes through steps. */
export class Host {
  readonly process: ChildProcess;
  readonly reports: Report[] = [];
  readonly ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  stderr = "";

  constructor(load: VllmModelOptions, steps: Step[], options: HostOptions = {}) {
    const command = [
      ...(options.wrapper ?? []),
      process.execPath,
      join(root, "test/support/host-child.cjs"),
      JSON.stringify({ load, steps }),
    ];
    this.process = spawn(command[0] as string, command.slice(1), {
      stdio: ["ignore", "pipe", "pipe"],
      env: options.env ?? process.env,
      timeout: options.timeout ?? 90_000,
      killSignal: "SIGKILL",
    });
    let text = "";
    this.process.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
      const lines = text.split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) if (line.startsWith("{")) this.reports.push(JSON.parse(line));
    });
    this.process.stderr?.setEncoding("utf8").on("data", (chunk: string) => {
      this.stderr += chunk;
    });
    this.ended = new Promise((resolve) => this.process.on("close", (code, signal) => resolve({ code, signal })));
  }

  /** Resolves with a step's report; fails if the process ends before it. */
  async report(step: string): Promise<Report> {
    const find = () => this.reports.find((report) => report.step === step);
    let over = false;
    void this.ended.then(() => {
      over = true;
    });
    await until(() => find() !== undefined || over, 90_000);
    const found = find();
    if (found === undefined) throw new Error(`the host ended before '${step}': ${this.stderr.slice(-2000)}`);
    return found;
  }
}

/** A zombie counts as gone: only its parent's wait is missing. */
export function isRunning(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** Names in /dev/shm that hold `prefix`: regions of that host, and semaphores, whose names begin with "sem.". */
export function sharedMemoryNamed(prefix: string): string[] {
  if (prefix === "") throw new Error("the host reported no prefix of its shared memory");
  return readdirSync("/dev/shm").filter((name) => name.includes(prefix));
}

/** Names in /dev/shm that a process, or one below it, has mapped: those of others on this machine are not among them. */
export function sharedMemoryOf(pid: number): string[] {
  const names = processTree(pid).flatMap((each) => {
    try {
      return [...readFileSync(`/proc/${each}/maps`, "utf8").matchAll(/ \/dev\/shm\/(.*)$/gm)];
    } catch {
      return [];
    }
  });
  // A name that is gone already leaves nothing behind: sem_open(3) maps a semaphore before it gives it its name.
  return [...new Set(names.map(([, name]) => name as string))].filter((name) => !name.endsWith(" (deleted)"));
}

/** Of what a host reported: no child runs, no shared memory, no private folder, within `milliseconds`. */
export async function expectNothingLeft(loaded: Report, milliseconds: number): Promise<void> {
  const { children = [], directory = "", prefix = "" } = loaded;
  expect(children.length).toBeGreaterThan(0);
  const left = () => [
    ...children.filter(isRunning).map((pid) => `process ${pid}`),
    ...(existsSync(directory) ? [directory] : []),
    ...sharedMemoryNamed(prefix),
  ];
  await until(() => left().length === 0, milliseconds).catch(() => {});
  expect(left()).toEqual([]);
}
