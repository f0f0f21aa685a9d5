// A peer under measurement: a driver process of its own, which is asked line by line.
import { spawn } from "node:child_process";
import { mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { root } from "../../scripts/steps.mjs";

/** What can be compared; `module` is a file of bench/peers. */
export const peers = {
  raw: { title: "raw vLLM (`LLMEngine`)" },
  tritonode: { title: "tritonode", module: "tritonode" },
  "http-own": { title: "tritonserver, HTTP, this backend", module: "tritonserver-http", architecture: "tritonode" },
  "grpc-own": { title: "tritonserver, gRPC, this backend", module: "tritonserver-grpc", architecture: "tritonode" },
  "http-upstream": {
    title: "tritonserver, HTTP, upstream's architecture",
    module: "tritonserver-http",
    architecture: "upstream",
  },
  "grpc-upstream": {
    title: "tritonserver, gRPC, upstream's architecture",
    module: "tritonserver-grpc",
    architecture: "upstream",
  },
  "vllm-serve": { title: "`vllm serve`, package openai", module: "vllm-serve" },
  "node-llama-cpp": { title: "node-llama-cpp", module: "node-llama-cpp" },
};

/** A peer's process. Commands are answered one after the other. */
export class PeerProcess {
  #answers;
  #child;
  #ended;

  /** @param python the runtime's python3 */
  constructor(name, python) {
    this.name = name;
    this.python = python;
    this.scratch = mkdtempSync(join(tmpdir(), "tritonode-bench-"));
    this.log = join(this.scratch, "log");
    const log = openSync(this.log, "a");
    const { module } = peers[name];
    const [command, args] =
      module === undefined
        ? [python, [join(root, "bench/drivers/raw_vllm.py")]]
        : [process.execPath, ["--expose-gc", join(root, "bench/driver.mjs"), module]];
    this.began = performance.now();
    this.#child = spawn(command, args, {
      stdio: ["pipe", log, log, "pipe"],
      env: { ...process.env, PATH: `${dirname(python)}:${process.env.PATH}` },
    });
    this.#ended = new Promise((resolve) => this.#child.once("close", resolve));
    this.#child.stdin.on("error", () => {}); // said by the answer that does not come
    this.#answers = createInterface({ input: this.#child.stdio[3] })[Symbol.asyncIterator]();
  }

  get pid() {
    return this.#child.pid;
  }

  async #ask(command) {
    this.#child.stdin.write(`${JSON.stringify(command)}\n`);
    const { done, value } = await this.#answers.next();
    if (done) throw new Error(`${this.name} ended before it answered '${command.cmd}'; its log is ${this.log}`);
    const answer = JSON.parse(value);
    if (answer.failure !== undefined) throw new Error(`${this.name}: ${answer.failure}; its log is ${this.log}`);
    return answer;
  }

  /** Loads the model; resolves when requests are served. */
  start(config) {
    const { architecture } = peers[this.name];
    const own = { python: this.python, scratch: this.scratch, log: this.log, architecture };
    return this.#ask({ cmd: "start", config: { ...own, ...config } });
  }

  /** Runs a batch; see lib/measure.mjs for what comes back. */
  async run(requests) {
    const result = await this.#ask({ cmd: "run", requests });
    if (result.failed > 0) throw new Error(`${this.name}: ${result.failed} requests failed: ${result.error}`);
    return result;
  }

  async stop() {
    try {
      await this.#ask({ cmd: "stop" });
    } finally {
      const timer = setTimeout(() => this.#child.kill("SIGKILL"), 20_000);
      this.#child.stdin.end();
      await this.#ended;
      clearTimeout(timer);
    }
    rmSync(this.scratch, { recursive: true, force: true });
  }
}
