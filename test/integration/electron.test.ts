import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { createPackageWithOptions, listPackage, statFile } from "@electron/asar";
import { chromium as driver, type Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { temporaryFolder, tinyEngine, writeRepository } from "../support/models";
import { adapter, root } from "../support/paths";
import { until } from "../support/triton";

// examples/electron, as far as Node can run it: Electron's own binary is not among the packages of npm's registry.

interface Message {
  type: string;
  phase?: string;
  adapters?: string[];
  id?: number;
  text?: string;
  finishReason?: string;
  usage?: { completionTokens: number };
  error?: { code?: string; message: string; hint?: string };
}

const example = join(root, "examples/electron");
const manifest = JSON.parse(readFileSync(join(example, "package.json"), "utf8"));
const folder = temporaryFolder();
const app = join(folder, "an app");
const loras = { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") };
let repository: string;

beforeAll(() => {
  cpSync(example, app, { recursive: true });
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

const chromium = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

/** Gives a page `window.model` as preload.cjs does, with Playwright's bridge in place of Electron's. */
async function connectPage(page: Page, host: Worker): Promise<void> {
  const { port1, port2 } = new MessageChannel();
  await page.exposeFunction("send", (message: object) => port1.postMessage(message));
  await page.exposeFunction("connect", () => {
    port1.on(
      "message",
      (message: Message) => void page.evaluate((it) => Reflect.get(globalThis, "receive")(it), message),
    );
    host.postMessage({ type: "connect", port: port2 }, [port2]);
  });
  await page.addInitScript(`
    let nextId = 1;
    window.model = {
      connect(listener) { window.receive = listener; window.connect(); },
      ask(prompt, lora, maxTokens) {
        window.send({ type: "ask", id: nextId, prompt, lora, maxTokens });
        return nextId++;
      },
      cancel(id) { window.send({ type: "cancel", id }); },
    };`);
}

/** The host as it is started in a worker thread, or with the interface of a utility process. */
const hosts: Record<string, (folder: string) => Worker> = {
  "a worker thread": (path) => new Worker(join(app, "model-host.mjs"), { workerData: { modelRepository: path } }),
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
    const phases = client.messages.filter(({ type }) => type === "state").map(({ phase }) => phase);
    // One that connects while the model loads may see a phase twice.
    expect([...new Set(phases)].slice(0, 2)).toEqual(["start", "import"]);
    expect(client.messages.at(-1)).toEqual({ type: "state", phase: "ready", adapters: ["lora_a", "lora_b"] });
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
      window.send({ type: "ask", id: 1, prompt: "Hello, my name is", lora, maxTokens: 40 });
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
    client.send({ type: "ask", id: 2, prompt: "Tell me a very long story", maxTokens: 450 });
    await client.wait(({ id, type }) => id === 2 && type === "text");
    client.send({ type: "cancel", id: 2 });
    expect(await client.end(2)).toMatchObject({ type: "error", error: { code: "ERR_REQUEST_CANCELLED" } });
    expect(client.of(2).at(-1)?.type).toBe("error");
  });

  test("an error comes with its code and its hint, and the next request is answered", async () => {
    client.send({ type: "ask", id: 3, prompt: "x", lora: "lora_c" });
    const { error } = await client.end(3);
    expect(error).toMatchObject({ code: "ERR_ADAPTER_NOT_FOUND", hint: expect.any(String) });
    client.send({ type: "ask", id: 4, prompt: "x", maxTokens: 0.5 });
    expect((await client.end(4)).error?.code).toBe("ERR_INVALID_ARGUMENT");
    client.send({ type: "ask", id: 5, prompt: "Hello", maxTokens: 2 });
    expect((await client.end(5)).type).toBe("done");
  });

  test.skipIf(chromium === undefined || kind !== "a worker thread")(
    "the page: the adapters in a menu, an answer as it comes, a stop button (needs Chromium)",
    async () => {
      const browser = await driver.launch({
        executablePath: chromium as string,
        args: ["--no-sandbox", "--disable-dev-shm-usage"],
      });
      try {
        const page = await browser.newPage();
        const failures: string[] = [];
        page.on("pageerror", (error) => failures.push(error.message));
        page.on("console", (message) => void (message.type() === "error" && failures.push(message.text())));
        await connectPage(page, host);
        await page.goto(pathToFileURL(join(app, "renderer/index.html")).href);
        const menu = page.getByLabel("Adapter");
        await page.locator("#adapter:enabled").waitFor({ timeout: 20_000 });
        expect(await menu.locator("option").allTextContents()).toEqual(["none (base model)", "lora_a", "lora_b"]);
        await menu.selectOption("lora_b");
        await page.getByLabel("Prompt").fill("Hello, my name is");
        await page.getByLabel("Prompt").press("Enter");
        const answer = page.locator(".answer").first();
        await answer.filter({ hasText: /./ }).waitFor({ timeout: 20_000 });
        await page
          .locator("#state")
          .filter({ hasText: / tokens$/ })
          .waitFor({ timeout: 20_000 });
        // An answer that would go on is stopped; the tiny model may end one by itself before.
        await page.getByLabel("Prompt").fill("Tell me a very long story");
        await page.locator("#send").click();
        await page.locator("#stop").click({ timeout: 5_000 });
        await page
          .locator("#state")
          .filter({ hasText: /^(stopped|\d+ tokens)$/ })
          .waitFor({ timeout: 20_000 });
        await page.locator("#send:enabled").waitFor();
        expect(await page.locator(".error").count()).toBe(0);
        expect(failures).toEqual([]);
      } finally {
        await browser.close();
      }
    },
  );

  test("told to stop, it ends what runs and itself", async () => {
    client.send({ type: "ask", id: 6, prompt: "Tell me a very long story", maxTokens: 450 });
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
      window.send({ type: "ask", id: 1, prompt: "x" });
      await until(() => window.of(1).length > 0, 10_000);
      expect(window.of(1)[0]?.error?.code).toBe("ERR_NOT_READY");
    } finally {
      await failing.terminate();
    }
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
