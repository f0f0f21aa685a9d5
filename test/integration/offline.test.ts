import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { temporaryFolder } from "../support/folders";
import { tinyEngine } from "../support/models";
import { adapter, root } from "../support/paths";
import { unless } from "../support/skip";

// A runtime from a bundle in parts, on a machine without a network: `npm run test:offline`. Some minutes and 5 GB.

const mayUnshare = spawnSync("unshare", ["--net", "true"]).status === 0;
const asked = process.env["TRITONODE_OFFLINE"] !== undefined;

/** Runs Node; in a network namespace whose only interface, lo, is down. */
function node(args: string[], network: "host" | "none", environment: NodeJS.ProcessEnv = {}) {
  const words = network === "host" ? [process.execPath] : ["unshare", "--net", process.execPath];
  const [program, ...rest] = [...words, ...args] as [string, ...string[]];
  return spawnSync(program, rest, { encoding: "utf8", env: { ...process.env, ...environment } });
}

describe("a machine without a network", unless(!asked, "takes minutes, runs by `npm run test:offline`"), () => {
  const folder = temporaryFolder("tritonode-offline-");
  const kit = join(folder, "kit");
  const directory = join(folder, "runtime");
  const tritonode = join(root, "dist/cli/main.js");
  const install = [tritonode, "setup", "--device", "cpu", "--offline", kit, "--dir", directory, "--installer", "pip"];

  it("is brought parts of 60 MB", () => {
    const made = node([tritonode, "bundle", kit, "--device", "cpu", "--parts", "60M"], "host");
    expect(made.status, made.stderr).toBe(0);
    const parts = readdirSync(kit).filter((name) => name !== "bundle.json");
    const sizes = parts.map((name) => statSync(join(kit, name)).size);
    expect(sizes.slice(0, -1)).toEqual(sizes.slice(0, -1).fill(60e6));
    expect(sizes.length).toBeGreaterThan(5);
  });

  it("gets a runtime of them", unless(!mayUnshare, "this user may make no network namespace"), () => {
    const installed = node(install, "none");
    expect(installed.stdout + installed.stderr).toContain(`ready: ${directory}`);
    rmSync(kit, { recursive: true });
    expect(existsSync(join(directory, "manifest.json"))).toBe(true);
  });

  it("serves with it", unless(!mayUnshare, "this user may make no network namespace"), () => {
    const loras = { lora_a: adapter("lora_a") };
    const program = `
      const { VllmModel } = require(${JSON.stringify(root)});
      VllmModel.load(${JSON.stringify({ engine: tinyEngine, loras })}).then(async (model) => {
        const sampling = { temperature: 0, max_tokens: 8 };
        const base = await model.generate("Hello", sampling);
        const other = await model.generate("Hello", { ...sampling, lora: "lora_a" });
        console.log(JSON.stringify([base.text, other.text]));
        await model.dispose();
      });`;
    const served = node(["-e", program], "none", { TRITONODE_RUNTIME_DIR: directory });
    const [base, other] = JSON.parse(served.stdout.trim().split("\n").at(-1) || JSON.stringify(served.stderr));
    expect(base).not.toBe("");
    expect(other).not.toBe(base);
  });
});
