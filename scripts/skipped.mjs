// The tests that did not run, by name and with the reason: noted by a reporter of vitest (the default export), read from
// pytest's report, and listed at the end of a run.
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cache } from "./steps.mjs";

// Another place for a test of this file.
const noted = process.env.TRITONODE_SKIPPED ?? join(cache, "skipped.json");

/** What vitest is told to use beside its own reporter. */
export const reporter = "--reporter=./scripts/skipped.mjs";

export default class SkippedTests {
  onInit() {
    rmSync(noted, { force: true });
  }

  onTestRunEnd(modules) {
    const skipped = modules.flatMap((module) =>
      [...module.children.allTests("skipped")].map((test) => ({
        name: `${module.relativeModuleId} > ${test.fullName}`,
        // test/support/skip.ts gives the first, `skip(reason)` inside a test the second.
        reason: test.meta().skipReason ?? test.result().note,
      })),
    );
    writeFileSync(noted, JSON.stringify(skipped));
  }
}

/** The tests that the last run of vitest skipped. */
export function skippedByVitest() {
  return existsSync(noted) ? JSON.parse(readFileSync(noted, "utf8")) : [];
}

/** The text of an XML attribute. */
export function unescapeXml(text) {
  const characters = { lt: "<", gt: ">", quot: '"', apos: "'", amp: "&", "#10": "\n" };
  return text.replace(/&(lt|gt|quot|apos|amp|#10);/g, (_, name) => characters[name]);
}

/** The tests that a JUnit report of pytest calls skipped. */
export function skippedByPytest(xml) {
  const cases = xml.matchAll(/<testcase ([^>]*[^/])>\s*<skipped ([^>]*)>/g);
  return [...cases].map(([, test, skipped]) => {
    const attribute = (text, name) => unescapeXml(new RegExp(`\\b${name}="([^"]*)"`).exec(text)?.[1] ?? "");
    return {
      name: `${attribute(test, "classname")} > ${attribute(test, "name")}`,
      reason: attribute(skipped, "message").replaceAll("\n", " "),
    };
  });
}

/** Prints the list, or nothing where every test ran. */
export function listSkipped(skipped) {
  if (skipped.length === 0) return;
  console.log(`${skipped.length} skipped:`);
  for (const { name, reason } of skipped) console.log(`  ${name}: ${reason || "no reason given"}`);
}
