// A host process of its own for tests that must not happen to the test runner: loads a model and does what argv[2] (JSON)
// says, in this order. Reports on stdout, a JSON object a line; an error is reported with its class, code and message.
const { writeSync } = require("node:fs");
const { VllmModel } = require("../../dist/index.js");

/** @type {{ load: object; steps: { do: string; [key: string]: unknown }[] }} */
const plan = JSON.parse(process.argv[2]);
let model;
let warm;
const streams = [];

function say(value) {
  writeSync(1, `${JSON.stringify(value)}\n`);
}

function describe(error) {
  return { class: error?.constructor?.name, code: error?.code, message: error?.message, hint: error?.hint };
}

const steps = {
  async load() {
    model = await VllmModel.load(plan.load);
    const { server } = model;
    return {
      children: server.children.map((child) => child.pid),
      directory: server.privateDirectory,
      prefix: server.sharedMemoryPrefix,
    };
  },
  async prewarm({ options = {} }) {
    warm = await VllmModel.prewarm(options);
    return { pid: warm.pid };
  },
  async generate({ prompt = "Hello, my name is", options = {} }) {
    return model.generate(prompt, { temperature: 0, max_tokens: 8, ignore_eos: true, ...options });
  },
  /** Starts streams and resolves when each has its first text; nobody handles what becomes of them. */
  async stream({ count = 64, options = {}, handled = true }) {
    const first = [];
    for (let i = 0; i < count; i++) {
      const stream = model.stream(`Prompt ${i}`, { max_tokens: null, temperature: 0, ignore_eos: true, ...options });
      first.push(stream.next());
      const rest = (async () => {
        for await (const _ of stream) void _;
      })();
      streams.push(rest);
      if (handled) rest.catch(() => {});
    }
    await Promise.all(first);
    return { count };
  },
  async loadAdapter({ name, path }) {
    return model.adapters.load(name, path);
  },
  async dispose({ drain = false }) {
    await model.dispose({ drain });
    return { settled: (await Promise.allSettled(streams)).map(({ status }) => status) };
  },
  async exit({ code = 7 }) {
    process.exit(code);
  },
  async throw() {
    setImmediate(() => {
      throw new Error("on purpose");
    });
    await new Promise(() => {});
  },
  async reject() {
    void Promise.reject(new Error("on purpose"));
    await new Promise(() => {});
  },
  async signal({ name }) {
    process.kill(process.pid, name);
    await new Promise(() => {});
  },
  async killChild({ name }) {
    for (const { pid } of model.server.children) process.kill(pid, name);
    return {};
  },
  async settled() {
    return { results: (await Promise.allSettled(streams)).map(({ reason }) => reason?.code) };
  },
  /** Stays as it is until the test kills it. */
  async wait() {
    await new Promise((resolve) => setTimeout(resolve, 120_000));
  },
  async sleep({ milliseconds }) {
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    return {};
  },
};

(async () => {
  for (const step of plan.steps) {
    const began = performance.now();
    const took = () => Math.round(performance.now() - began);
    try {
      const result = await steps[step.do](step);
      say({ step: step.do, took: took(), ...result });
    } catch (error) {
      say({ step: step.do, took: took(), error: describe(error) });
      if (step.do === "load") process.exit(3);
    }
  }
})();
