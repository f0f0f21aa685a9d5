import { RuntimeMissingError } from "../../errors";
import { thisHost } from "../../host";
import { addonCandidates, explainFailure, type FailedCandidate } from "../../native/addon-file";
import { packageRoot } from "../../package-root";
import { type FindRuntimeOptions, findRuntime } from "../find/find";
import { defaultDirectory, namedDirectory, nearestFolder, setupCommand } from "../find/paths";
import { run } from "../process";
import type { Runtime } from "../runtime";
import { type Check, fail, ok } from "./check";
import {
  checkBash,
  checkDiskSpace,
  checkKernel,
  checkMemory,
  checkNode,
  checkOpenMp,
  checkPlatform,
  checkSharedMemory,
  checkTemporaryFolder,
} from "./checks-host";
import {
  checkCompiler,
  checkGpu,
  checkImports,
  checkLibpython,
  checkNumpy,
  checkPython,
  checkStub,
  checkUnwanted,
  checkVersions,
} from "./checks-runtime";
import { checkLeftovers } from "./leftovers";
import { checkStored } from "./stored";

/** Options of {@link doctor}: which runtime to check. */
export interface DoctorOptions extends FindRuntimeOptions {
  /** Aborting it stops the running check, and no further ones follow. */
  signal?: AbortSignal | undefined;
}

/**
 * Checks everything that can keep a model from loading or from being served well, one {@link Check} at a time, the quick ones
 * first. Changes nothing. If a check itself throws, it counts as failed, so the list is always complete.
 *
 * ```ts
 * for await (const { name, status, detail, fix } of doctor()) console.log(status, name, detail, fix ?? "");
 * ```
 */
export async function* doctor(options: DoctorOptions = {}): AsyncGenerator<Check, void, void> {
  const { signal } = options;
  yield checkNode();
  yield checkPlatform();
  // If the program can't run at all, further lines would only hide the one that matters.
  const { platform, glibc } = thisHost();
  if (platform !== "linux" || glibc === undefined) return;
  yield checkKernel();
  yield await guarded("addon", () => checkAddon(signal));
  yield checkBash();
  yield await guarded("/dev/shm", () => checkSharedMemory());
  yield await guarded("temporary folder", () => checkTemporaryFolder());
  yield checkMemory();
  yield checkOpenMp();
  yield await guarded("leftovers", async () => checkLeftovers());
  yield await guarded("stored", async () => checkStored());
  const runtime = await find(options);
  if ("status" in runtime) {
    const directory = namedDirectory(options.directory) ?? defaultDirectory(options.device ?? "cpu");
    yield await guarded("disk space", () => checkDiskSpace(nearestFolder(directory)));
    yield runtime;
    return;
  }
  yield await guarded("disk space", () => checkDiskSpace(runtime.directory));
  yield ok("runtime", `${runtime.directory} (${runtime.device})`);
  const checks: [string, () => Check | Promise<Check>][] = [
    ["GPU", () => checkGpu(runtime, signal)],
    ["C compiler", () => checkCompiler(runtime, process.env, signal)],
    ["versions", () => checkVersions(runtime)],
    ["Python", () => checkPython(runtime, signal)],
    ["libpython", () => checkLibpython(runtime)],
    ["Triton's stub", () => checkStub(runtime, signal)],
    ["numpy", () => checkNumpy(runtime)],
    ["torchvision", () => checkUnwanted(runtime)],
    ["vLLM", () => checkImports(runtime, signal)],
  ];
  for (const [name, check] of checks) yield await guarded(name, check);
}

/** Opens the candidates one after the other, as binding.ts does, and prints the path that loads, or why each one did not. */
const OPEN_ADDON = `
const failed = [];
for (const path of process.argv.slice(1)) {
  try {
    if (!require("fs").existsSync(path)) throw new Error("no such file");
    require(require("fs").realpathSync(path));
    console.log(path);
    process.exit(0);
  } catch (error) {
    failed.push({ path, reason: error.message.split("\\n")[0] });
  }
}
console.log(JSON.stringify(failed));
process.exitCode = 1;`;

/** Loads the addon in a separate process, because one that was built for another Node may crash the whole process. */
export async function checkAddon(signal?: AbortSignal, root = packageRoot()): Promise<Check> {
  const name = "addon";
  const result = await run(process.execPath, ["-e", OPEN_ADDON, ...addonCandidates(root)], {
    signal,
    // Electron's binary runs a script only if this is set; in plain Node it would make code believe that it runs in Electron
    environment: process.versions.electron === undefined ? process.env : { ...process.env, ELECTRON_RUN_AS_NODE: "1" },
  });
  if (result.code === 0) return ok(name, result.stdout.trim());
  if (result.code !== 1) {
    const how = result.signal ?? `exit code ${result.code}`;
    return fail(name, `loading it ended a process: ${how}`, "build it on this machine: npx tritonode build");
  }
  const { reason, hint } = explainFailure(JSON.parse(result.stdout) as FailedCandidate[], root);
  return fail(name, reason, hint);
}

async function find(options: DoctorOptions): Promise<Runtime | Check> {
  try {
    return await findRuntime(options);
  } catch (error) {
    const fix = error instanceof RuntimeMissingError ? error.hint : undefined;
    const { message } = error as Error;
    return fail("runtime", message, fix ?? `run: ${setupCommand(options)}`);
  }
}

async function guarded(name: string, check: () => Check | Promise<Check>): Promise<Check> {
  try {
    return await check();
  } catch (error) {
    return fail(name, (error as Error).message, "the check itself failed: see the message");
  }
}
