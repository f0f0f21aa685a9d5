// `vllm serve` of the runtime's own vLLM on a loopback port: what model.fetch is compared with.
import { spawn } from "node:child_process";
import { createServer } from "node:net";

/** @returns {Promise<number>} a port that was free a moment ago */
function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

/**
 * Starts the server with the same settings as the model in process, and waits until it is healthy.
 *
 * @returns `{ fetch, stop }`; `fetch` takes a path.
 */
export async function startServer(python, engine, loras) {
  const port = await freePort();
  const flags = Object.entries(engine).flatMap(([name, value]) => {
    const flag = `--${name.replaceAll("_", "-")}`;
    return value === true ? [flag] : [flag, ...[value].flat().map(String)];
  });
  const modules = Object.entries(loras).map(([name, path]) => `${name}=${path}`);
  const child = spawn(
    python,
    // The `vllm` command exits at once in the CPU wheel: it asks for the metadata of a package of another name.
    [
      "-m",
      "vllm.entrypoints.openai.api_server",
      "--host",
      "127.0.0.1",
      "--port",
      port,
      ...flags,
      "--lora-modules",
      ...modules,
    ],
    {
      env: {
        ...process.env,
        VLLM_ALLOW_RUNTIME_LORA_UPDATING: "1",
        VLLM_NO_USAGE_STATS: "1",
        HF_HUB_OFFLINE: "1",
        VLLM_CPU_OMP_THREADS_BIND: "nobind",
        VLLM_WORKER_MULTIPROC_METHOD: "spawn",
        GOMP_SPINCOUNT: "2000",
      },
      stdio: ["ignore", "pipe", "pipe"],
    },
  );
  let log = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (log = (log + text).slice(-20_000)));
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const base = `http://127.0.0.1:${port}`;
  const end = Date.now() + 240_000;
  for (;;) {
    if (child.exitCode !== null || Date.now() > end) {
      child.kill("SIGKILL");
      throw new Error(`vllm serve did not start:\n${log}`);
    }
    const healthy = await fetch(`${base}/health`).then(
      (response) => response.ok,
      () => false,
    );
    if (healthy) break;
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  return {
    fetch: (path, init) => fetch(base + path, init),
    async stop() {
      child.kill("SIGTERM");
      const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
      await ended;
      clearTimeout(timer);
    },
  };
}
