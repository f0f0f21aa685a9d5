import { existsSync, readFileSync } from "node:fs";
import { type Browser, chromium as driver, type Page } from "playwright-core";
import { unless } from "./skip";

const executablePath = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

/** Options of tests that need a browser. */
export const needsBrowser = unless(
  executablePath === undefined,
  "no Chromium here: install Debian's package `chromium`",
);

/** Starts Chromium, without its own calls home. */
export function startBrowser(): Promise<Browser> {
  return driver.launch({
    executablePath: executablePath as string,
    args: [
      "--no-sandbox",
      "--disable-dev-shm-usage",
      "--disable-gpu",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** What goes wrong in a page: uncaught errors and what the console calls an error. */
export function keepFailures(page: Page): string[] {
  const failures: string[] = [];
  page.on("pageerror", (error) => failures.push(error.message));
  page.on("console", (message) => void (message.type() === "error" && failures.push(message.text())));
  return failures;
}

const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

/** What axe-core finds wrong in the page as it is now: the rule and the elements. */
export async function findBarriers(page: Page): Promise<string[]> {
  // As an expression, not as a <script>: the page's own Content-Security-Policy stays in force.
  await page.evaluate(`${axe}; undefined`);
  const { violations } = (await page.evaluate("axe.run()")) as {
    violations: { id: string; help: string; nodes: { html: string }[] }[];
  };
  return violations.map(({ id, help, nodes }) => `${id}: ${help}: ${nodes.map(({ html }) => html).join(" ")}`);
}
