import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { findRuntime } from "../../src";
import { temporaryFolder } from "../support/folders";
import { tinyEngine } from "../support/models";
import { root } from "../support/paths";

// A host whose dependencies bring two versions of the package: each has an addon, a Triton and children of its own.

/** The package as it would be installed, under another version. */
function installAnother(folder: string): string {
  for (const name of ["dist", "backends", "prebuilds"]) {
    cpSync(join(root, name), join(folder, name), { recursive: true });
  }
  const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  writeFileSync(join(folder, "package.json"), JSON.stringify({ ...manifest, version: "0.0.1" }));
  return folder;
}

test("two versions in one process serve side by side, and one outlives the other", async () => {
  // Each version would look for a runtime of its own.
  const { directory: runtime } = await findRuntime();
  const script = `
    const copies = process.argv.slice(1).map((folder) => require(folder + "/dist/index.js"));
    const engine = ${JSON.stringify(tinyEngine)};
    async function say(model) {
      let text = "";
      for await (const piece of model.stream("Hello", { temperature: 0, max_tokens: 12 })) text += piece.text;
      return text;
    }
    (async () => {
      const models = [];
      for (const { VllmModel } of copies) models.push(await VllmModel.load({ engine, runtime: ${JSON.stringify(runtime)} }));
      const texts = await Promise.all(models.map(say));
      await models[0].dispose();
      texts.push(await say(models[1]));
      await models[1].dispose();
      const pid = String(process.pid);
      const left = require("fs").readdirSync("/dev/shm").filter((name) => name.includes("tritonode_" + pid));
      console.log(JSON.stringify({ texts, left, apart: copies[0].VllmModel !== copies[1].VllmModel }));
    })();`;
  const another = installAnother(temporaryFolder("tritonode other version "));
  const run = spawnSync(process.execPath, ["--eval", script, root, another], { encoding: "utf8", timeout: 120_000 });
  expect(run.stderr).toBe("");
  const { texts, left, apart } = JSON.parse(run.stdout) as { texts: string[]; left: string[]; apart: boolean };
  expect(apart).toBe(true);
  expect(texts[0]).not.toBe("");
  expect(new Set(texts).size).toBe(1);
  expect(left).toEqual([]);
  expect(readdirSync(another)).toContain("dist");
  expect(run.status).toBe(0);
});
