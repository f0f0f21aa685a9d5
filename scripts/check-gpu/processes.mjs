// What a process tree holds: sockets, memory on the host, memory on the GPU.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { memoryMiB, tree } from "../../bench/lib/processes.mjs";

/** TCP, UDP and raw sockets of a process and those below it, each as `pid: table line` (proc(5), /proc/net/tcp). */
export function internetSockets(root = process.pid) {
  const lines = new Map();
  for (const table of ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"]) {
    const rows = read(`/proc/net/${table}`).trim().split("\n").slice(1);
    for (const row of rows) lines.set(row.trim().split(/\s+/)[9], `${table} ${row.trim()}`);
  }
  const found = [];
  for (const pid of tree(root)) {
    for (const descriptor of list(`/proc/${pid}/fd`)) {
      const inode = /^socket:\[(\d+)\]$/.exec(link(`/proc/${pid}/fd/${descriptor}`))?.[1];
      if (inode !== undefined && lines.has(inode)) found.push(`${pid}: ${lines.get(inode)}`);
    }
  }
  return found;
}

const QUERY = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];

/**
 * Resolves with a function that tells the memory in use, in MiB: on a GPU what the driver says of the first one, else what
 * the processes hold. Zombies hold none. On a GPU nvidia-smi keeps running, until this process group ends: to start it
 * takes seconds where no other program holds the driver, and memory is to be back within two.
 */
export async function watchMemory(device) {
  if (device === "cpu") return memoryMiB;
  let last = toMiB(execFileSync("nvidia-smi", QUERY, { encoding: "utf8" }));
  const child = spawn("nvidia-smi", [...QUERY, "--loop-ms=50"], { stdio: ["ignore", "pipe", "ignore"] });
  const lines = createInterface({ input: child.stdout });
  const follows = await Promise.race([
    once(lines, "line").then(() => true),
    once(child, "close").then(() => false),
    delay(5_000, false, { ref: false }),
  ]).catch(() => false);
  if (!follows) {
    // An nvidia-smi that does not loop, or that keeps its lines back.
    child.kill();
    return () => toMiB(execFileSync("nvidia-smi", QUERY, { encoding: "utf8" }));
  }
  lines.on("line", (line) => {
    last = toMiB(line);
  });
  return () => last;
}

function toMiB(text) {
  const value = Number(text.trim());
  if (text.trim() === "" || Number.isNaN(value)) throw new Error(`nvidia-smi gives no memory in use: ${text.trim()}`);
  return value;
}

export function isRunning(pid) {
  const state = /^State:\s+(\S)/m.exec(read(`/proc/${pid}/status`))?.[1];
  return state !== undefined && state !== "Z";
}

function read(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function list(path) {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function link(path) {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}
