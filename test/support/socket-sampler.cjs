// Watches a process tree from outside: argv[2] is its root's pid. Every few milliseconds looks for TCP, UDP and raw sockets
// among the descriptors of each process of the tree, and at SIGTERM writes what it saw to stdout as JSON.
const { readdirSync, readFileSync, readlinkSync, writeSync } = require("node:fs");

const root = Number(process.argv[2]);
const tables = ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"];
const found = new Map();
const unix = new Set();
const pids = new Set();
let samples = 0;

function children(pid) {
  const all = [];
  try {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      const list = readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim();
      if (list !== "") all.push(...list.split(" ").map(Number));
    }
  } catch {
    // It has ended.
  }
  return all;
}

function sample() {
  samples++;
  const tree = [root];
  for (let at = 0; at < tree.length; at++) {
    for (const child of children(tree[at])) if (child !== process.pid) tree.push(child);
  }
  const sockets = new Map();
  for (const pid of tree) {
    pids.add(pid);
    let descriptors = [];
    try {
      descriptors = readdirSync(`/proc/${pid}/fd`);
    } catch {
      continue;
    }
    for (const fd of descriptors) {
      try {
        const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${fd}`))?.[1];
        if (inode !== undefined) sockets.set(inode, pid);
      } catch {
        // Closed since.
      }
    }
  }
  if (sockets.size === 0) return;
  // The tables of the root's own network namespace.
  for (const table of tables) {
    let text = "";
    try {
      text = readFileSync(`/proc/${root}/net/${table}`, "utf8");
    } catch {
      continue;
    }
    for (const line of text.trim().split("\n").slice(1)) {
      const columns = line.trim().split(/\s+/);
      const pid = sockets.get(columns[9]);
      if (pid !== undefined)
        found.set(`${pid} ${table} ${columns[1]} ${columns[2]} ${columns[3]}`, (found.get(columns[9]) ?? 0) + 1);
      sockets.delete(columns[9]);
    }
  }
  for (const [inode, pid] of sockets) unix.add(`${pid} ${inode}`);
}

const timer = setInterval(sample, Number(process.argv[3] ?? 5));
process.on("SIGTERM", () => {
  clearInterval(timer);
  writeSync(1, JSON.stringify({ samples, processes: pids.size, internet: [...found.keys()], other: unix.size }));
  process.exit(0);
});
writeSync(1, "\n");
sample();
