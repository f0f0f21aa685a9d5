// What a process tree holds: sockets, memory on the host, memory on the GPU.
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
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

/**
 * Memory in MiB: on a GPU what the driver says is in use on the first one, else what the processes hold. Zombies hold none.
 */
export function memoryOf(device, pids) {
  if (device === "cpu") return memoryMiB(pids);
  const query = ["--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"];
  return Number(execFileSync("nvidia-smi", query, { encoding: "utf8" }).trim());
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
