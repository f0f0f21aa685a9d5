import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** This process and everything below it. */
export function processTree(root = process.pid): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, "utf8");
      // The command's name is in parentheses and may hold some itself.
      parents.set(Number(entry), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // It has ended since.
    }
  }
  const tree = new Set([root]);
  for (let size = 0; size !== tree.size; ) {
    size = tree.size;
    for (const [pid, parent] of parents) if (tree.has(parent)) tree.add(pid);
  }
  return [...tree];
}

/** TCP, UDP and raw sockets that the process tree holds, each as `pid: table line` (proc(5), /proc/net/tcp). */
export function internetSockets(): string[] {
  const lines = new Map<string, string>();
  for (const table of ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"]) {
    for (const line of readFileSync(`/proc/net/${table}`, "utf8").trim().split("\n").slice(1)) {
      lines.set(line.trim().split(/\s+/)[9] ?? "", `${table} ${line.trim()}`);
    }
  }
  const found: string[] = [];
  for (const pid of processTree()) {
    let descriptors: string[] = [];
    try {
      descriptors = readdirSync(`/proc/${pid}/fd`);
    } catch {
      // It has ended since.
    }
    for (const fd of descriptors) {
      try {
        const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
        const line = inode === undefined ? undefined : lines.get(inode);
        if (line !== undefined) found.push(`${pid}: ${line}`);
      } catch {
        // Closed since.
      }
    }
  }
  return found;
}
