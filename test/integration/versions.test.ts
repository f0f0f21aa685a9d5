// A vLLM of another version than the backend is for: refused in one line, tried with a warning when asked for.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { afterEach, expect, test } from "vitest";
import { findRuntime, ModelLoadError, VllmModel } from "../../src";
import { temporaryFolder } from "../support/folders";
import { keepLog, tinyEngine } from "../support/models";

const folder = temporaryFolder("tritonode-versions-");

afterEach(() => {
  delete process.env["TRITONODE_ALLOW_VLLM"];
});

/** The runtime's own packages, under an environment whose vLLM calls itself by another version. */
async function runtimeWithVersion(version: string): Promise<string> {
  const runtime = await findRuntime({ device: "cpu" });
  const manifest = JSON.parse(readFileSync(join(runtime.directory, "manifest.json"), "utf8"));
  const venv = join(folder, "venv");
  execFileSync(manifest.python.base, ["-I", "-m", "venv", "--without-pip", venv]);
  const site = (path: string) => join(path, "lib", `python${runtime.pythonVersion}`, "site-packages");
  const named = join(site(venv), `vllm-${version}.dist-info`);
  mkdirSync(named);
  writeFileSync(join(named, "METADATA"), `Metadata-Version: 2.1\nName: vllm\nVersion: ${version}\n`);
  // Read with its own .pth files: the runtime may stand on others' packages itself.
  const theirs = JSON.stringify(site(join(runtime.directory, "venv")));
  writeFileSync(join(site(venv), "runtime.pth"), `import site; site.addsitedir(${theirs})\n`);
  const { version: triton, ...files } = manifest.triton;
  const absolute = Object.entries(files).map(([key, path]) => [key, resolve(runtime.directory, String(path))]);
  writeFileSync(
    join(folder, "manifest.json"),
    JSON.stringify({
      ...manifest,
      python: { ...manifest.python, executable: "venv/bin/python3" },
      triton: { version: triton, ...Object.fromEntries(absolute) },
      vllmVersion: version,
    }),
  );
  return folder;
}

test("another version is refused in one line, and tried with a warning when asked for", async () => {
  process.env["TRITONODE_RUNTIME_DIR"] = await runtimeWithVersion("0.40.0+cpu");
  const started = performance.now();
  const refused = await VllmModel.load({ engine: tinyEngine }).catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(ModelLoadError);
  expect(refused).toMatchObject({
    code: "ERR_VLLM_VERSION",
    message:
      "vLLM 0.40.0+cpu is not supported: this backend is tested with 0.26 to 0.33; " +
      "install one of these, or set TRITONODE_ALLOW_VLLM=1 to try this one",
    hint: expect.stringContaining("docs/reference/versions.md"),
  });
  // Refused before torch and vLLM are imported. A bound for a hang, not for speed.
  expect(performance.now() - started).toBeLessThan(60_000);

  process.env["TRITONODE_ALLOW_VLLM"] = "1";
  const log = keepLog();
  await using model = await VllmModel.load({ engine: tinyEngine, logger: log });
  const { text } = await model.generate("Hello", { max_tokens: 4, ignore_eos: true });
  expect(text).not.toBe("");
  expect(log.lines.join("\n")).toContain(
    "vLLM 0.40.0+cpu is not supported: this backend is tested with 0.26 to 0.33; it is tried because",
  );
});
