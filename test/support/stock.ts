import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, copyFileSync, cpSync, mkdirSync, readdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { expect, vi } from "vitest";
import { findRuntime } from "../../src";
import { root } from "./paths";
import { processTree } from "./sockets";

// The stock `tritonserver` of the runtime's wheel with this project's backend, as docs/guides/stock-tritonserver.md sets it up.
// It listens on loopback; the package never does.

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((resolve) => probe.listen(0, "127.0.0.1", resolve));
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** Lays out the folder of backends. Copies: Triton refuses a library that a link leads out of its folder. */
async function writeBackends(backends: string): Promise<NodeJS.ProcessEnv> {
  const runtime = await findRuntime({ device: "cpu" });
  const { triton } = runtime;
  mkdirSync(join(backends, "python"), { recursive: true });
  for (const name of readdirSync(triton.pythonBackend)) {
    if (/\.(so|py)$/.test(name)) copyFileSync(join(triton.pythonBackend, name), join(backends, "python", name));
  }
  const stub = join(backends, "python/triton_python_backend_stub");
  copyFileSync(triton.stub, stub);
  chmodSync(stub, 0o755);
  cpSync(join(root, "backends/vllm"), join(backends, "vllm"), { recursive: true });
  return {
    ...process.env,
    PATH: `${join(runtime.python, "..")}:${process.env["PATH"]}`,
    LD_LIBRARY_PATH: [runtime.libpythonDirectory, triton.dependencyDirectory].join(":"),
    TRITONODE_PUNICA_LIBRARY: join(root, `prebuilds/linux-${process.arch}/libtritonode_punica.so`),
  };
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended.
  }
}

export class StockServer {
  #process: ChildProcess | undefined;
  /** All that it has written to its standard output and error. */
  log = "";
  ports = { http: 0, grpc: 0, metrics: 0 };

  /**
   * Starts it; resolves when it is ready, with every model that it loads at start.
   *
   * @param folder where its backends are laid out
   * @param repository its model repository
   */
  async start(folder: string, repository: string, ...options: string[]): Promise<void> {
    const backends = join(folder, "backends");
    const env = await writeBackends(backends);
    const server = (await findRuntime({ device: "cpu" })).triton.server as string;
    const endpoints = [];
    for (const endpoint of ["http", "grpc", "metrics"] as const) {
      this.ports[endpoint] = await freePort();
      endpoints.push(`--${endpoint}-port=${this.ports[endpoint]}`, `--${endpoint}-address=127.0.0.1`);
    }
    // A stub that is not up after 30 s, the default, fails the load, and this Triton then waits for ever for its end.
    const patient = "--backend-config=python,stub-timeout-seconds=120";
    const args = [
      `--model-repository=${repository}`,
      `--backend-directory=${backends}`,
      patient,
      ...endpoints,
      ...options,
    ];
    // Triton starts stubs with `bash -c`. Where its input is a socket, as a pipe of Node's is, and SHLVL is below 2, bash
    // reads ~/.bashrc as for rshd, and what that puts in front of PATH decides which Python's packages are found.
    const child = spawn(server, args, { env, stdio: ["ignore", "pipe", "pipe"] });
    this.#process = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream?.setEncoding("utf8").on("data", (text: string) => {
        this.log += text;
      });
    }
    await vi.waitFor(
      async () => {
        expect(child.exitCode ?? child.signalCode, this.log.slice(-3000)).toBeNull();
        const ready = await fetch(`http://127.0.0.1:${this.ports.http}/v2/health/ready`).catch(() => undefined);
        expect(ready?.status).toBe(200);
      },
      { timeout: 120_000, interval: 250 },
    );
  }

  /** The text of Triton's metrics. */
  async metrics(): Promise<string> {
    return (await fetch(`http://127.0.0.1:${this.ports.metrics}/metrics`)).text();
  }

  async stop(): Promise<void> {
    const child = this.#process;
    if (child === undefined) return;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const tree = processTree(child.pid);
    const late = setTimeout(() => tree.forEach(kill), 60_000);
    await new Promise((resolve) => child.once("exit", resolve).kill("SIGTERM"));
    clearTimeout(late);
  }
}
