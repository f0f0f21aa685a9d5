import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { createPackageWithOptions, listPackage, statFile } from "@electron/asar";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { findRuntime } from "../../src";
import { findBarriers, keepFailures, needsBrowser, startBrowser } from "../support/browser";
import { temporaryFolder } from "../support/folders";
import { tinyEngine, writeRepository } from "../support/models";
import { adapter, root } from "../support/paths";
import { until } from "../support/triton";

// examples/electron, as far as Node can run it: Electron's own binary is not among the packages of npm's registry.

interface Message {
  type: string;
  phase?: string;
  step?: string;
  adapters?: string[];
  id?: number;
  text?: string;
  finishReason?: string;
  usage?: { completionTokens: number };
  error?: { code?: string; message: string; hint?: string };
}

const say = (content: string) => [{ role: "user", content }];

const example = join(root, "examples/electron");
const manifest = JSON.parse(readFileSync(join(example, "package.json"), "utf8"));
const folder = temporaryFolder();
const app = join(folder, "an app");
const loras = { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") };
let repository: string;

beforeAll(() => {
  cpSync(example, app, { recursive: true });
  // As electron-builder does (package.json, "build").
  cpSync(join(root, "examples/chat-ui"), join(app, "chat-ui"), { recursive: true });
  const installed = join(app, "node_modules/tritonode");
  mkdirSync(installed, { recursive: true });
  const npm = process.env["npm_execpath"] as string;
  const pack = spawnSync(process.execPath, [npm, "pack", root, "--json", "--ignore-scripts"], {
    cwd: folder,
    encoding: "utf8",
  });
  const [{ filename }] = JSON.parse(pack.stdout);
  expect(spawnSync("tar", ["-xzf", join(folder, filename), "-C", installed, "--strip-components=1"]).status).toBe(0);
  const { dependencies = {} } = JSON.parse(readFileSync(join(installed, "package.json"), "utf8"));
  for (const name of Object.keys(dependencies)) {
    cpSync(join(root, "node_modules", name), join(app, "node_modules", name), { recursive: true });
  }
  repository = writeRepository(join(folder, "models"), { model: { ...tinyEngine, enable_lora: true }, loras });
});

/** A window's end of the channel. */
class Client {
  readonly messages: Message[] = [];
  readonly #port: MessagePort;

  constructor(host: Worker) {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    port1.on("message", (message: Message) => this.messages.push(message));
    host.postMessage({ type: "connect", port: port2 }, [port2]);
  }

  send(message: object): void {
    this.#port.postMessage(message);
  }

  close(): void {
    this.#port.close();
  }

  of(id: number): Message[] {
    return this.messages.filter((message) => message.id === id);
  }

  /** The first message that fits; fails if the model can't be loaded. */
  async wait(fits: (message: Message) => boolean): Promise<Message> {
    await until(() => this.messages.some((message) => fits(message) || message.phase === "failed"), 120_000);
    const found = this.messages.find(fits);
    if (found === undefined) throw new Error(JSON.stringify(this.messages.at(-1)));
    return found;
  }

  end(id: number): Promise<Message> {
    return this.wait((message) => message.id === id && message.type !== "text");
  }
}

/**
 * Gives a page `window.model` as preload.cjs does, with Playwright's bridge in place of Electron's, and the files that
 * Electron would serve as app://local/ from the same function.
 */
async function connectPage(page: Page, host: () => Worker, choose: (what: string) => string): Promise<void> {
  const { answer } = await import(join(app, "app-files.mjs"));
  await page.route("http://local/**", async (route) => {
    const response: Response = await answer(route.request().url());
    const body = Buffer.from(await response.arrayBuffer());
    await route.fulfill({ status: response.status, headers: Object.fromEntries(response.headers), body });
  });
  let port: MessagePort;
  const tell = (message: object) =>
    page.evaluate((it) => Reflect.get(globalThis, "receive")(it), message).catch(() => {});
  await page.exposeFunction("send", (message: object) => port.postMessage(message));
  await page.exposeFunction("choose", choose);
  await page.exposeFunction("connect", () => {
    const { port1, port2 } = new MessageChannel();
    port = port1;
    port1.on("message", tell);
    const worker = host();
    worker.once("exit", (code) => port === port1 && tell({ type: "ended", code }));
    worker.postMessage({ type: "connect", port: port2 }, [port2]);
  });
  await page.addInitScript(`
    window.model = {
      connect(listener) { window.receive = listener; window.connect(); },
      send: (message) => window.send(message),
      choose: (what) => window.choose(what),
    };`);
}

/** The host as it is started in a worker thread, or with the interface of a utility process. */
const hosts: Record<string, (folder: string) => Worker> = {
  "a worker thread": (path) => new Worker(join(app, "model-host.mjs"), { workerData: path }),
  "a process.parentPort of Electron's form": (path) =>
    new Worker(
      `import(${JSON.stringify(join(root, "test/support/electron-parent-port.mjs"))})
        .then(() => import(${JSON.stringify(join(app, "model-host.mjs"))}))`,
      { eval: true, argv: [path] },
    ),
};

describe.each(Object.keys(hosts))("the model's host in %s", (kind) => {
  const start = hosts[kind] as (folder: string) => Worker;
  let host: Worker;
  let client: Client;

  beforeAll(async () => {
    host = start(repository);
    client = new Client(host);
    await client.wait(({ phase }) => phase === "ready");
  });
  afterAll(() => host?.terminate());

  test("a window sees the load and then the adapters; one that comes later gets the state at once", async () => {
    const steps = client.messages.filter(({ phase }) => phase === "loading").map(({ step }) => step);
    // One that connects while the model loads may see a step twice.
    expect([...new Set(steps)].slice(0, 2)).toEqual(["start", "import"]);
    expect(client.messages.at(-1)).toMatchObject({ type: "state", phase: "ready", adapters: ["lora_a", "lora_b"] });
    const second = new Client(host);
    await second.wait(({ phase }) => phase === "ready");
    expect(second.messages).toHaveLength(1);
    second.close();
  });

  test("answers come piece by piece, each window's to itself, several at a time", async () => {
    const other = new Client(host);
    for (const [window, lora] of [
      [client, "lora_a"],
      [other, "lora_b"],
    ] as const) {
      window.send({ type: "ask", id: 1, messages: say("Hello, my name is"), lora, maxTokens: 40 });
    }
    for (const window of [client, other]) {
      const done = await window.end(1);
      expect(done).toMatchObject({ type: "done", finishReason: expect.stringMatching(/^(length|stop)$/) });
      const texts = window.of(1).filter(({ type }) => type === "text");
      expect(texts.length).toBeGreaterThan(1);
      expect(done.usage?.completionTokens).toBeGreaterThan(1);
    }
    const text = (window: Client) =>
      window
        .of(1)
        .map((message) => message.text ?? "")
        .join("");
    expect(text(client)).not.toBe(text(other));
    other.close();
  });

  test("a request is cancelled, and nothing comes after", async () => {
    client.send({ type: "ask", id: 2, messages: say("Tell me a very long story"), maxTokens: 450 });
    await client.wait(({ id, type }) => id === 2 && type === "text");
    client.send({ type: "cancel", id: 2 });
    expect(await client.end(2)).toMatchObject({ type: "error", error: { code: "ERR_REQUEST_CANCELLED" } });
    expect(client.of(2).at(-1)?.type).toBe("error");
  });

  test("an error comes with its code and its hint, and the next request is answered", async () => {
    client.send({ type: "ask", id: 3, messages: say("x"), lora: "lora_c" });
    const { error } = await client.end(3);
    expect(error).toMatchObject({ code: "ERR_ADAPTER_NOT_FOUND", hint: expect.any(String) });
    client.send({ type: "ask", id: 4, messages: say("x"), maxTokens: 0.5 });
    expect((await client.end(4)).error?.code).toBe("ERR_INVALID_ARGUMENT");
    client.send({ type: "ask", id: 5, messages: say("Hello"), maxTokens: 2 });
    expect((await client.end(5)).type).toBe("done");
  });

  test("told to stop, it ends what runs and itself", async () => {
    client.send({ type: "ask", id: 6, messages: say("Tell me a very long story"), maxTokens: 450 });
    await client.wait(({ id, type }) => id === 6 && type === "text");
    const exit = new Promise((resolve) => host.once("exit", resolve));
    host.postMessage({ type: "stop" });
    expect(await exit).toBe(0);
    expect((await client.end(6)).error?.code).toBe("ERR_REQUEST_CANCELLED");
  });

  test("a model that can't be loaded is a state with the reason", async () => {
    const failing = start(join(folder, "no such folder"));
    try {
      const window = new Client(failing);
      const { error } = await window.wait(({ phase }) => phase === "failed");
      expect(error?.message).toContain("no such folder");
      window.send({ type: "ask", id: 1, messages: say("x") });
      await until(() => window.of(1).length > 0, 10_000);
      expect(window.of(1)[0]?.error?.code).toBe("ERR_NOT_READY");
    } finally {
      await failing.terminate();
    }
  });
});

describe("the window", needsBrowser, () => {
  let browser: Browser;
  let page: Page;
  let failures: string[];
  let host: Worker;
  let starts = 0;
  const start = () => {
    starts++;
    const started = new Worker(join(app, "model-host.mjs"), { workerData: starts === 1 ? "" : repository });
    started.once("exit", () => {
      if (host === started) running = false;
    });
    running = true;
    return started;
  };
  let running = false;

  beforeAll(async () => {
    browser = await startBrowser();
    page = await browser.newPage({ viewport: { width: 1100, height: 720 } });
    page.setDefaultTimeout(60_000);
    failures = keepFailures(page);
    const chosen: Record<string, string> = { model: repository, adapter: adapter("lora_all") };
    await connectPage(
      page,
      () => {
        if (!running) host = start();
        return host;
      },
      (what) => chosen[what] as string,
    );
    await page.goto("http://local/");
  });
  afterAll(async () => {
    await browser?.close();
    await host?.terminate();
  });
  afterEach(() => expect(failures).toEqual([]));

  const send = async (question: string) => {
    await page.getByLabel("Question").fill(question);
    await page.getByLabel("Question").press("Enter");
  };
  /** An empty conversation: with a long one before it, an answer has no room in the tiny model's context. */
  const reload = async () => {
    await page.reload();
    await page.locator("#send:enabled").waitFor();
  };
  /** Asked on every frame: a locator asks twice a second, and the whole answer takes about one. */
  const answering = () =>
    page.waitForFunction(() => Reflect.get(globalThis, "document").querySelector("li.busy:not(:empty)") !== null);

  test("a model is opened, an adapter is loaded, and the columns answer", async () => {
    await page.getByText("Open a model: a Hugging Face folder").waitFor();
    expect(await findBarriers(page)).toEqual([]);
    await page.getByRole("button", { name: "Open a model…" }).click();
    await page.getByText(/^Loading the model: /).waitFor();
    await page.getByText("Ready. Adapters: lora_a, lora_b.").waitFor();
    await page.getByRole("button", { name: "Load an adapter…" }).click();
    await page.getByText("Ready. Adapters: lora_a, lora_b, lora_all.").waitFor();
    const menus = page.getByLabel("Model", { exact: true });
    expect(await menus.first().locator("option").allTextContents()).toEqual([
      "base model",
      "lora_a",
      "lora_b",
      "lora_all",
    ]);
    await menus.last().selectOption("lora_all");
    await send("Hello");
    await page
      .getByText(/^\d+ tokens · \d+ tokens\/s$/)
      .nth(2)
      .waitFor();
    expect(await findBarriers(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await page.locator("#stop:disabled").waitFor();
    expect(await page.locator("li.error").count()).toBe(0);
  });

  test("the engine crashes during an answer: the window says so, and it is started again with its adapters", async () => {
    await reload();
    await send("Tell me a very long story");
    await answering();
    killEngine();
    await page.getByText(/^The engine has crashed; it is started again/).waitFor();
    await page.locator("li.error").first().waitFor();
    expect(await findBarriers(page)).toEqual([]);
    // The one that was loaded in the window is there again too.
    await page.getByText("Ready. Adapters: lora_a, lora_b, lora_all.").waitFor();
    const failed = await page.locator("li.error").count();
    const answers = page.locator("li.assistant", { hasText: /./ });
    const before = await answers.count();
    await send("Hello");
    await answers.nth(before + 2).waitFor();
    // In the same utility process.
    expect(starts).toBe(1);
    await page.keyboard.press("Escape");
    await page.locator("#stop:disabled").waitFor();
    expect(await page.locator("li.error").count()).toBe(failed);
  });

  test("the model's process ends: the window says so and starts it again", async () => {
    // A reloaded window is connected to the same host.
    await reload();
    expect(starts).toBe(1);
    await send("Tell me a very long story");
    await answering();
    await host.terminate();
    await page.getByText("the model's process has ended (1); it is started again.").waitFor();
    await page.locator("li.error").nth(2).waitFor();
    expect(await page.locator("li.error").count()).toBe(3);
    await page.getByText("Ready. Adapters: lora_a, lora_b.").waitFor();
    await page.locator("#send:enabled").waitFor();
    expect(starts).toBe(2);
  });
});

/** Kills the engines of this process's models, as the kernel does when memory runs out. */
function killEngine(): void {
  const killed = readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => {
      try {
        const [, parent] = /\) \S+ (\d+)/.exec(readFileSync(`/proc/${pid}/stat`, "utf8")) ?? [];
        return Number(parent) === process.pid && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("/model.py");
      } catch {
        return false;
      }
    });
  expect(killed.length).toBeGreaterThan(0);
  for (const pid of killed) process.kill(Number(pid), "SIGKILL");
}

describe("a machine without the runtime", needsBrowser, () => {
  let browser: Browser;
  beforeAll(async () => {
    browser = await startBrowser();
  });
  afterAll(() => browser?.close());

  /** A window whose runtime belongs into `directory`. */
  async function firstRun(directory: string, more: NodeJS.ProcessEnv = {}) {
    const env = { ...process.env, ...more, TRITONODE_RUNTIME_DIR: directory };
    const host = new Worker(join(app, "model-host.mjs"), { workerData: repository, env });
    const page = await browser.newPage();
    page.setDefaultTimeout(60_000);
    await connectPage(
      page,
      () => host,
      () => "",
    );
    await page.goto("http://local/");
    await page.getByText("1.3 GB, once").waitFor();
    expect(await findBarriers(page)).toEqual([]);
    return {
      page,
      async [Symbol.asyncDispose]() {
        await page.close();
        await host.terminate();
      },
    };
  }

  test("the window says why it could not be installed, and tries again", async () => {
    const directory = join(folder, "somebody's folder");
    mkdirSync(directory);
    writeFileSync(join(directory, "letter.txt"), "not ours");
    await using window = await firstRun(directory);
    const { page } = window;
    await page.getByRole("button", { name: "Install" }).click();
    await page.locator("#notice.error", { hasText: /somebody's folder/ }).waitFor();
    expect(readdirSync(directory)).toEqual(["letter.txt"]);
    expect(await findBarriers(page)).toEqual([]);
    // Nothing is left to install: what the machine has is found complete.
    const { directory: installed } = await findRuntime();
    rmSync(join(directory, "letter.txt"));
    for (const name of ["venv", "manifest.json"]) symlinkSync(join(installed, name), join(directory, name));
    await page.getByRole("button", { name: "Try again" }).click();
    await page.getByText("Ready. Adapters: lora_a, lora_b.").waitFor();
    await page.getByText("1.3 GB, once").waitFor({ state: "hidden" });
    expect(await page.locator("#send:enabled").count()).toBe(1);
  });

  test("an index without the packages: the steps are shown, then pip's reason", async () => {
    const empty = join(folder, "an empty index");
    mkdirSync(empty);
    const env = { TRITONODE_INSTALLER: "pip", PIP_INDEX_URL: `file://${empty}`, PIP_NO_INDEX: "1", PIP_RETRIES: "0" };
    await using window = await firstRun(join(folder, "a new runtime"), env);
    const { page } = window;
    await page.getByRole("button", { name: "Install" }).click();
    await page.locator("#progress").waitFor();
    await page.locator("#notice.error", { hasText: /^The installation failed: / }).waitFor();
    expect(await page.getByRole("button", { name: "Try again" }).isEnabled()).toBe(true);
    expect(await page.locator("#send:enabled").count()).toBe(0);
  });
});

describe("packed into app.asar", () => {
  const archive = join(folder, "an installed app/resources/app.asar");
  const unpacked = join(`${archive}.unpacked`, "node_modules/tritonode");

  beforeAll(async () => {
    const { asarUnpack } = manifest.build as { asarUnpack: string[] };
    expect(asarUnpack).toHaveLength(1);
    await createPackageWithOptions(app, archive, { unpack: asarUnpack[0] as string });
  });

  test("the whole package lies outside, the app inside", () => {
    const source = join(app, "node_modules/tritonode");
    const files = (path: string) =>
      readdirSync(path, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => relative(path, join(entry.parentPath, entry.name)))
        .sort();
    expect(files(unpacked)).toEqual(files(source));
    expect(files(unpacked)).toContain("backends/vllm/model.py");
    expect(listPackage(archive, { isPack: false })).toContain("/model-host.mjs");
    expect(statFile(archive, "model-host.mjs")).not.toHaveProperty("unpacked", true);
  });

  test("code inside the archive finds the addon, the backend and the kernels beside it, and answers", () => {
    const run = spawnSync(
      process.execPath,
      [join(root, "test/support/asar-main.cjs"), archive, JSON.stringify({ modelRepository: repository })],
      { encoding: "utf8" },
    );
    expect(run.stderr).toBe("");
    const found = JSON.parse(run.stdout);
    expect(found.text).not.toBe("");
    expect(found.modules).toEqual([]);
    expect(found.addon).toContain(`${unpacked}/`);
    expect(found.kernels).toContain(`${unpacked}/`);
  });
});

test("the addon makes no buffers of foreign memory, which Electron's memory cage refuses", () => {
  const addon = readdirSync(app, { recursive: true, encoding: "utf8" }).filter((path) => path.endsWith(".node"));
  expect(addon.length).toBeGreaterThan(0);
  for (const path of addon) {
    const symbols = readFileSync(join(app, path), "latin1");
    expect(symbols).toContain("napi_create_function");
    expect(symbols).not.toMatch(/napi_create_external_(arraybuffer|buffer)/);
  }
});
