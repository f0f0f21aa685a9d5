import { accessSync, constants, existsSync } from "node:fs";
import { chmod, mkdtemp, rm, statfs, writeFile } from "node:fs/promises";
import { availableParallelism, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { atLeast, describeHost, type Host, hostObstacle, thisHost } from "../../host";
import { onPath } from "../find/python";
import { formatBytes } from "../install/progress";
import { run } from "../process";
import { type Check, fail, ok, warn } from "./check";

const NODE_MINIMUM = [20, 17] as const;
/** pidfd_open(2) came with Linux 5.3. */
const KERNEL_MINIMUM = [5, 3] as const;
/** Docker gives 64 MB; the stub's regions start at 1 MB and grow with the requests in flight. */
const SHM_MINIMUM = 32e6;
const SHM_COMFORTABLE = 256e6;
const MEMORY_COMFORTABLE = 4e9;

export function checkNode(version = process.versions.node): Check {
  const name = "Node.js";
  if (atLeast(version, NODE_MINIMUM)) return ok(name, version);
  return fail(
    name,
    `${version} is older than ${NODE_MINIMUM.join(".")}`,
    `install Node.js ${NODE_MINIMUM.join(".")} or later`,
  );
}

export function checkPlatform(host: Host = thisHost()): Check {
  const name = "platform";
  const obstacle = hostObstacle(host);
  if (obstacle !== undefined) return fail(name, obstacle.reason, obstacle.hint);
  return ok(name, describeHost(host));
}

export function checkKernel(version = release()): Check {
  const name = "kernel";
  if (atLeast(version, KERNEL_MINIMUM)) return ok(name, `${version} (pidfd_open: a dead child is noticed at once)`);
  return fail(
    name,
    `${version} has no pidfd_open`,
    "use Linux 5.3 or later: the death of the Python child could not be noticed",
  );
}

export function checkBash(environment: NodeJS.ProcessEnv = process.env): Check {
  const path = onPath("bash", environment);
  if (path !== undefined) return ok("bash", path);
  return fail(
    "bash",
    "is not on PATH",
    "apt-get install bash (Alpine: apk add bash): Triton starts its stub with `bash -c`",
  );
}

export async function checkSharedMemory(folder = "/dev/shm"): Promise<Check> {
  const name = folder;
  const docker = "in Docker: --shm-size=1g (or --ipc=host); else: mount -o remount,size=1g /dev/shm";
  if (!existsSync(folder)) return fail(name, "is not mounted", `mount -t tmpfs tmpfs ${folder}`);
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch {
    return fail(name, "is not writable for this user", `chmod 1777 ${folder}`);
  }
  const { bsize, blocks, bavail } = await statfs(folder);
  const free = bsize * bavail;
  const detail = `${formatBytes(free)} free of ${formatBytes(bsize * blocks)}`;
  if (free < SHM_MINIMUM) return fail(name, detail, docker);
  return free < SHM_COMFORTABLE ? warn(name, `${detail}: little for many requests at once`, docker) : ok(name, detail);
}

/** The private folder of a server holds a script that is started as the stub: noexec mounts break that. */
export async function checkTemporaryFolder(folder = tmpdir()): Promise<Check> {
  const name = "temporary folder";
  // bash would split or expand such a path, so the server then uses /tmp
  const usable = /^[A-Za-z0-9_@%+=:,./-]+$/.test(folder) ? folder : "/tmp";
  let scratch: string | undefined;
  try {
    scratch = await mkdtemp(join(usable, `tritonode-${process.pid}-`));
    const script = join(scratch, "script");
    await writeFile(script, "#!/bin/sh\nexit 7\n");
    await chmod(script, 0o700);
    const result = await run(script, []);
    if (result.code !== 7) throw new Error(`a script there ended with ${result.signal ?? result.code}`);
    const { bsize, bavail } = await statfs(usable);
    const detail = `${usable}, ${formatBytes(bsize * bavail)} free`;
    return bsize * bavail < 100e6 ? warn(name, detail, "free some space there, or set TMPDIR") : ok(name, detail);
  } catch (error) {
    const reason = (error as Error).message;
    return fail(name, `${usable}: ${reason}`, "set TMPDIR to a folder that may be written and is not mounted noexec");
  } finally {
    if (scratch !== undefined) await rm(scratch, { recursive: true, force: true });
  }
}

export async function checkDiskSpace(directory: string): Promise<Check> {
  const name = "disk space";
  try {
    const { bsize, bavail } = await statfs(directory);
    const free = bsize * bavail;
    const detail = `${formatBytes(free)} free in ${directory}`;
    return free < 1e9
      ? warn(name, detail, "free some space: caches of torch and vLLM are written while models load")
      : ok(name, detail);
  } catch (error) {
    return fail(name, (error as Error).message, `mkdir -p ${directory}`);
  }
}

export function checkMemory(total = memoryLimit()): Check {
  const detail = `${formatBytes(total)} for this process and its children`;
  if (total >= MEMORY_COMFORTABLE) return ok("memory", detail);
  return warn(
    "memory",
    detail,
    "vLLM alone takes about 1.5 GB before any weights: give the container more, or load a small model",
  );
}

/** OpenMP's settings in the caller's environment: they override the settings that the engine makes for the child. */
export function checkOpenMp(environment: NodeJS.ProcessEnv = process.env, cores = availableParallelism()): Check {
  const name = "OpenMP";
  const names = [
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "OMP_PROC_BIND",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
    "VLLM_CPU_OMP_THREADS_BIND",
  ];
  const set = names.filter((key) => environment[key]).map((key) => `${key}=${environment[key]}`);
  const detail = `${cores} ${cores === 1 ? "core" : "cores"}${set.length === 0 ? "" : `; ${set.join(" ")}`}`;
  const threads = Number.parseInt(environment.OMP_NUM_THREADS ?? "", 10);
  if (threads > cores) {
    return warn(name, detail, "unset OMP_NUM_THREADS: more threads than cores wait for each other at every step");
  }
  if (/^active$/i.test(environment.OMP_WAIT_POLICY ?? "") || environment.KMP_BLOCKTIME === "infinite") {
    return warn(
      name,
      detail,
      "unset OMP_WAIT_POLICY and KMP_BLOCKTIME: spinning threads take the cores that Node needs",
    );
  }
  return ok(name, detail);
}

/** How many bytes the cgroup or the machine allows. */
function memoryLimit(): number {
  const constrained = process.constrainedMemory?.() ?? 0;
  return constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
}
