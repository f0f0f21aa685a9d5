import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { Browser, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { VllmModel } from "../../src";
import { findBarriers, keepFailures, needsBrowser, startBrowser } from "../support/browser";
import { loadTiny } from "../support/models";
import { adapter, root } from "../support/paths";
import { unless } from "../support/skip";
import { until } from "../support/triton";

// examples/web-chat with the real model, in a real browser.

/** A model repository whose answers docs/images/web-chat.png shall show; without it no picture is taken. */
const shown = process.env["TRITONODE_SCREENSHOT"];

let model: VllmModel;
let server: Server;
let address: string;

async function start(of: VllmModel): Promise<[Server, string]> {
  const { serve } = await import(join(root, "examples/web-chat/server.mjs"));
  const started: Server = await serve(of);
  return [started, `http://127.0.0.1:${(started.address() as AddressInfo).port}`];
}

function stop(started: Server | undefined): void {
  started?.close();
  started?.closeAllConnections();
}

beforeAll(async () => {
  model = await loadTiny({}, { lora_a: adapter("lora_a"), lora_b: adapter("lora_b") });
  [server, address] = await start(model);
});
afterAll(async () => {
  stop(server);
  await model?.dispose();
});

const idle = () => until(async () => (await model.info()).requests.running === 0, 20_000);

describe("the server", () => {
  test("passes the adapters' answers on, and stops vLLM with the browser", async () => {
    expect(await (await fetch(`${address}/api/models`)).json()).toEqual(["vllm_model", "lora_a", "lora_b"]);
    expect((await fetch(`${address}/nowhere`)).status).toBe(404);
    const controller = new AbortController();
    const response = await fetch(`${address}/api/chat`, {
      method: "POST",
      body: JSON.stringify({
        model: "lora_a",
        messages: [{ role: "user", content: "Hi" }],
        stream: true,
        max_tokens: 450,
        ignore_eos: true,
      }),
      signal: controller.signal,
    });
    await response.body?.getReader().read();
    expect((await model.info()).requests.running).toBe(1);
    controller.abort();
    await idle();
  });

  test.each([
    ["another site's page", "POST", "/api/adapters/x", { origin: "https://example.org" }, 403],
    ["a name that is a path", "PUT", "/api/adapters/..%2Fx/adapter_config.json", {}, 400],
    ["a file that is no part of an adapter", "PUT", "/api/adapters/x/adapter_model.bin", {}, 400],
    ["the base model's name", "PUT", "/api/adapters/vllm_model/adapter_config.json", {}, 409],
    ["an adapter without files", "POST", "/api/adapters/empty", {}, 422],
  ])("refuses %s", async (_what, method, path, headers, status) => {
    const response = await fetch(address + path, { method, headers, body: "{}" });
    expect(response.status).toBe(status);
    expect(await response.json()).toEqual({ error: { message: expect.stringMatching(/./) } });
  });
});

describe("in a browser", needsBrowser, () => {
  let browser: Browser;
  let page: Page;
  let failures: string[];

  beforeAll(async () => {
    browser = await startBrowser();
  });
  afterAll(() => browser?.close());
  beforeEach(async () => {
    page = await browser.newPage({ viewport: { width: 1200, height: 700 } });
    page.setDefaultTimeout(20_000);
    failures = keepFailures(page);
    await page.goto(address);
    await page.getByLabel("Model", { exact: true }).nth(2).waitFor();
  });
  afterEach(async () => {
    await page.close();
    expect(failures).toEqual([]);
  });

  const menus = () => page.getByLabel("Model", { exact: true });
  const chosen = () => menus().evaluateAll((all) => all.map((menu) => (menu as unknown as { value: string }).value));
  const idlePage = () => page.locator("#stop:disabled").waitFor();

  test("answers come side by side, with their speed, and are told to screen readers once they are whole", async () => {
    expect(await chosen()).toEqual(["vllm_model", "lora_a", "lora_b"]);
    await page.getByLabel("Question").fill("Hello");
    await page.getByLabel("Question").press("Enter");
    // Every column has begun before any is done.
    await until(async () => (await page.locator("li.busy", { hasText: /./ }).count()) === 3, 20_000);
    await page
      .getByText(/^\d+ tokens · \d+ tokens\/s$/)
      .nth(2)
      .waitFor();
    await idlePage();
    const answers = await page.locator("li.assistant").allTextContents();
    expect(new Set(answers).size).toBe(3);
    const told = await page.getByRole("log", { name: "Answers" }).locator("p").allTextContents();
    expect(told.sort()).toEqual(
      ["vllm_model", "lora_a", "lora_b"].map((name, i) => `${name} answered: ${answers[i]}`).sort(),
    );
    const usage = (await page.locator(".speed").allTextContents()).map((text) => Number.parseInt(text, 10));
    expect(Math.min(...usage)).toBeGreaterThan(1);
  });

  test("by the keyboard alone: columns, a question, Escape to stop; the focus is never lost", async () => {
    const focused = () => page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent");
    await page.getByRole("button", { name: "Add a column" }).focus();
    await page.keyboard.press("Enter");
    expect(await chosen()).toEqual(["vllm_model", "lora_a", "lora_b", "vllm_model"]);
    expect(await focused()).toBe("Model");
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("Remove column 4");
    await page.keyboard.press("Enter");
    expect(await chosen()).toHaveLength(3);
    expect(await focused()).toBe("Model");
    await page.keyboard.press("Tab");
    await page.keyboard.press("Tab");
    expect(await focused()).toBe("Conversation 3");
    await page.keyboard.press("Tab");
    expect(await page.evaluate("document.activeElement.id")).toBe("question");
    await page.keyboard.type("Tell me a long story");
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("about a sailor");
    await page.keyboard.press("Enter");
    await page.locator("li.busy", { hasText: /./ }).first().waitFor();
    await page.keyboard.press("Escape");
    await idlePage();
    await idle();
    expect(await page.locator("li.user").first().textContent()).toBe("Tell me a long story\nabout a sailor");
    expect(await page.locator("li.error").count()).toBe(0);
    expect(await page.evaluate("document.activeElement.id")).toBe("question");
  });

  test("a PEFT folder that is dropped is loaded and answers in a column of its own", async () => {
    const folder = adapter("lora_all");
    const session = await page.context().newCDPSession(page);
    for (const type of ["dragEnter", "dragOver", "drop"] as const) {
      const data = { items: [], files: [folder], dragOperationsMask: 1 };
      await session.send("Input.dispatchDragEvent", { type, x: 300, y: 300, data });
      if (type === "dragOver") await page.locator("body.drop-target").waitFor();
    }
    await page.getByText("lora_all is loaded (rank").waitFor();
    expect(await chosen()).toEqual(["vllm_model", "lora_a", "lora_b", "lora_all"]);
    expect(await page.locator("body.drop-target").count()).toBe(0);
    await page.getByLabel("Question").fill("Hello");
    await page.getByRole("button", { name: "Send" }).click();
    await until(async () => (await model.adapters.get("lora_all")).running === 1, 20_000);
    await page.locator(".speed:not(:empty)").nth(3).waitFor();
    await page.keyboard.press("Escape");
    await idlePage();
    expect(await page.locator("li.error").count()).toBe(0);
    await model.adapters.unload("lora_all");
  });

  test("the same with a file input; a folder that is none is explained", async () => {
    const input = page.locator("#folder");
    await input.setInputFiles(adapter("lora_all"));
    await page.getByText("lora_all is loaded (rank").waitFor();
    await input.setInputFiles(join(root, "examples/openai"));
    await page.getByText("openai is not a PEFT folder: it has no adapter_config.json and no adapter_model").waitFor();
    await model.adapters.unload("lora_all");
  });

  test.each(["light", "dark"] as const)("axe finds nothing, %s, on a screen and on a phone", async (colorScheme) => {
    await page.emulateMedia({ colorScheme });
    await page.getByLabel("Question").fill("Hello");
    await page.getByLabel("Question").press("Enter");
    await page.locator("li.assistant", { hasText: /./ }).nth(2).waitFor();
    expect(await findBarriers(page)).toEqual([]);
    await page.keyboard.press("Escape");
    await idlePage();
    await page.setViewportSize({ width: 390, height: 844 });
    expect(await findBarriers(page)).toEqual([]);
    // Nothing is wider than the phone; the columns scroll in their own box.
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(390);
    const [first] = await page.locator(".column").all();
    expect((await first?.boundingBox())?.width).toBeGreaterThan(300);
  });

  const screenshot = unless(shown === undefined, "takes docs/images/web-chat.png of TRITONODE_SCREENSHOT=REPOSITORY");
  test("a picture of three adapters for the README", screenshot, async () => {
    // Its model has the name of the tiny one.
    await model.dispose();
    await using real = await VllmModel.load({ modelRepository: shown as string });
    const [other, at] = await start(real);
    try {
      await page.goto(at);
      await page.locator(".column").nth(2).waitFor();
      for (const question of ["What is the capital of France?", "Why is the sky blue?"]) {
        await page.getByLabel("Question").fill(question);
        await page.getByLabel("Question").press("Enter");
        await idlePage();
      }
      await page.setViewportSize({ width: 1000, height: 560 });
      await page.screenshot({ path: join(root, "docs/images/web-chat.png") });
    } finally {
      stop(other);
    }
  });
});
