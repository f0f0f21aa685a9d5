// What failed, read from the reports of vitest and pytest, and listed at the end of a run: where several lanes ran side
// by side, their own summaries are far apart.
import { stripVTControlCharacters } from "node:util";
import { unescapeXml } from "./skipped.mjs";

/** Lines of a message that are shown: the whole of it is in the lane's own output. */
const LINES = 12;

/**
 * What vitest's JSON report calls failed; a file that could not be loaded counts as one.
 *
 * @returns {{ name: string, message: string }[]}
 */
export function failedByVitest({ testResults }, root) {
  return testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = name.startsWith(`${root}/`) ? name.slice(root.length + 1) : name;
    const failed = assertionResults.filter((test) => test.status === "failed");
    if (failed.length === 0) return status === "failed" ? [{ name: file, message }] : [];
    return failed.map(({ fullName, failureMessages }) => ({
      name: `${file} > ${fullName}`,
      message: failureMessages.join("\n"),
    }));
  });
}

/** What a JUnit report of pytest calls failed, or broken outside a test. */
export function failedByPytest(xml) {
  const cases = xml.matchAll(/<testcase ([^>]*[^/])>\s*<(?:failure|error) message="([^"]*)"/g);
  return [...cases].map(([, test, message]) => {
    const attribute = (name) => unescapeXml(new RegExp(`\\b${name}="([^"]*)"`).exec(test)?.[1] ?? "");
    return { name: `${attribute("classname")} > ${attribute("name")}`, message: unescapeXml(message) };
  });
}

/** Prints the list, or nothing where all passed. */
export function listFailed(failed) {
  if (failed.length === 0) return;
  console.log(`${failed.length} failed:`);
  for (const { name, message } of failed) {
    const lines = stripVTControlCharacters(message).trim().split("\n");
    console.log(`  ${name}`);
    for (const line of lines.slice(0, LINES)) console.log(`    ${line}`);
    if (lines.length > LINES) console.log("    …");
  }
}
