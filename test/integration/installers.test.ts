import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { findRuntime } from "../../src/runtime";
import { sitePackages } from "../../src/runtime/find/triton";
import { chooseInstaller } from "../../src/runtime/install/installer";
import { InstallerError, isNotFound, type PipContext, pipInstall } from "../../src/runtime/install/pip";
import type { SetupProgress } from "../../src/runtime/install/progress";
import { uvInstall, uvResolves } from "../../src/runtime/install/uv";
import { makeWheel, PackageIndex, startProxy } from "../support/package-index";

// The real pip (that of the runtime) and the real uv, on an index of this machine's own that breaks off when it is told to.
const UV = "uv==0.13.9";
const MEGABYTE = 1_000_000;

let scratch: string;
let base: string;
let pips: string;
let uv: string;
let index: PackageIndex;

beforeAll(async () => {
  const runtime = await findRuntime({ device: "cpu" });
  base = runtime.python;
  scratch = mkdtempSync(join(tmpdir(), "tritonode-installers-"));
  const wheels = join(scratch, "wheels");
  mkdirSync(wheels);
  for (const name of ["first", "second"]) makeWheel(base, wheels, name, 3 * MEGABYTE);
  index = await new PackageIndex(wheels).listen();
  pips = sitePackages(join(runtime.directory, "venv"), runtime.pythonVersion);
  // kept between runs: 20 MB
  const target = join(__dirname, "../../.cache/uv");
  uv = join(target, "bin/uv");
  if (!existsSync(uv)) execFileSync(base, ["-m", "pip", "install", "-q", "--no-deps", "--target", target, UV]);
}, 300_000);

afterAll(() => {
  index?.close();
  rmSync(scratch, { recursive: true, force: true });
});

afterEach(() => {
  index.breaks.clear();
  index.asked.length = 0;
  vi.unstubAllEnvs();
});

/** Nothing of this machine's own configuration, and caches of the test's own. */
function alone(variables: Record<string, string>): void {
  for (const name of Object.keys(process.env)) {
    if (/^(PIP_|UV_|TRITONODE_(UV|INSTALLER)$)|_proxy$/i.test(name)) vi.stubEnv(name, undefined);
  }
  const caches = mkdtempSync(join(scratch, "cache-"));
  const own = { PIP_CONFIG_FILE: "/dev/null", PIP_CACHE_DIR: join(caches, "pip"), UV_CACHE_DIR: join(caches, "uv") };
  for (const [name, value] of Object.entries({ ...own, UV_NO_CONFIG: "1", ...variables })) vi.stubEnv(name, value);
}

/** An environment with the runtime's own pip in it. */
function environment(): PipContext & { progress: SetupProgress[] } {
  const folder = mkdtempSync(join(scratch, "environment-"));
  const venv = join(folder, "venv");
  execFileSync(base, ["-I", "-m", "venv", "--without-pip", venv]);
  const site = sitePackages(venv, readdirSync(join(venv, "lib"))[0]?.replace("python", "") ?? "");
  for (const name of readdirSync(pips).filter((entry) => /^pip(-[\d.]+\.dist-info)?$/.test(entry))) {
    cpSync(join(pips, name), join(site, name), { recursive: true });
  }
  const progress: SetupProgress[] = [];
  const python = join(venv, "bin/python3");
  return {
    python,
    sitePackages: site,
    scratch: folder,
    progress,
    onProgress: (step) => progress.push(step),
    log: () => {},
  };
}

const PINS = ["first==1.0", "second==1.0"];
const installed = (context: PipContext) =>
  PINS.map((pin) => existsSync(join(context.sitePackages ?? "", pin.slice(0, -5), "data")));

describe("pip", () => {
  it("goes on with a download that breaks off, from where it was", async () => {
    alone({ PIP_INDEX_URL: index.url() });
    index.breaks.set("first-1.0-py3-none-any.whl", [MEGABYTE, MEGABYTE]);
    const context = environment();
    await pipInstall(context, PINS);
    expect(installed(context)).toEqual([true, true]);
    const ranges = index.downloads("first").map(({ range }) => Number(/^bytes=(\d+)-/.exec(range ?? "")?.[1] ?? 0));
    expect(ranges[0]).toBe(0);
    expect(ranges.at(-1)).toBeGreaterThan(MEGABYTE / 2);
  });

  it("does not download again what was complete when a run was ended", async () => {
    alone({ PIP_INDEX_URL: index.url(), PIP_TRUSTED_HOST: "127.0.0.1", PIP_RESUME_RETRIES: "0" });
    index.breaks.set("second-1.0-py3-none-any.whl", [MEGABYTE]);
    await expect(pipInstall(environment(), PINS)).rejects.toBeInstanceOf(InstallerError);
    expect(index.downloads("first")).toHaveLength(1);
    const again = environment();
    await pipInstall(again, PINS);
    expect(installed(again)).toEqual([true, true]);
    expect(index.downloads("first")).toHaveLength(1);
    expect(index.downloads("second")).toHaveLength(2);
  });

  it("takes everything from the company's index, with the user's name and password", async () => {
    alone({ PIP_INDEX_URL: index.url("me:secret@") });
    await pipInstall(environment(), PINS);
    const authorization = `Basic ${Buffer.from("me:secret").toString("base64")}`;
    for (const name of ["first", "second"]) expect(index.downloads(name)[0]).toMatchObject({ authorization });
  });

  it("goes through the proxy", async () => {
    const proxy = await startProxy(index.port);
    alone({
      PIP_INDEX_URL: "http://packages.example/simple",
      PIP_PROXY: proxy.url,
      PIP_TRUSTED_HOST: "packages.example",
    });
    const context = environment();
    await pipInstall(context, PINS);
    proxy.close();
    expect(installed(context)).toEqual([true, true]);
    expect(new Set(proxy.hosts)).toEqual(new Set(["packages.example"]));
  });
});

describe("uv", () => {
  it("installs the same pins, says how far it is, and downloads nothing twice", async () => {
    alone({ UV_DEFAULT_INDEX: index.url() });
    for (let i = 0; i < 2; i++) {
      const context = environment();
      await uvInstall(uv, context, PINS);
      expect(installed(context)).toEqual([true, true]);
      expect(context.progress.map(({ phase }) => phase)).toContain("install");
    }
    // the file itself once: before that uv looks at its length and at the metadata in it
    expect(index.downloads("first").filter(({ range }) => range === undefined).length).toBeLessThan(3);
  });

  it("goes through the proxy", async () => {
    const proxy = await startProxy(index.port);
    alone({ UV_DEFAULT_INDEX: "http://packages.example/simple", HTTP_PROXY: proxy.url });
    const context = environment();
    await uvInstall(uv, context, PINS);
    proxy.close();
    expect(installed(context)).toEqual([true, true]);
    expect(new Set(proxy.hosts)).toEqual(new Set(["packages.example"]));
  });

  it("takes everything from a folder of wheels when it is offline", async () => {
    alone({ UV_DEFAULT_INDEX: "http://127.0.0.1:9/simple" });
    const context = { ...environment(), wheels: join(scratch, "wheels") };
    await uvInstall(uv, context, PINS);
    expect(installed(context)).toEqual([true, true]);
  });

  it("says what it does not find", async () => {
    alone({ UV_DEFAULT_INDEX: index.url() });
    const error = await uvInstall(uv, environment(), ["first==1.0", "torch==1.0"]).catch((reason) => reason);
    expect(error).toBeInstanceOf(InstallerError);
    expect(isNotFound(error, "torch")).toBe(true);
    expect(isNotFound(error, "first")).toBe(false);
    const question = { program: uv, python: base, environment: process.env, signal: undefined };
    const ours = [index.url()];
    expect(await uvResolves({ ...question, pins: PINS, torchIndexes: ours })).toBeUndefined();
    expect(await uvResolves({ ...question, pins: [...PINS, "third==1.0"], torchIndexes: ours })).toContain("third");
    // torch, the first, is looked for in one index after the other
    const indexes = [`${index.url()}/nothing`, index.url()];
    expect(await uvResolves({ ...question, pins: PINS, torchIndexes: indexes })).toBeUndefined();
  });
});

describe("the choice between them", () => {
  const ask = (installer?: string, pins = PINS) =>
    chooseInstaller({
      installer,
      pins,
      python: base,
      torchIndexes: [undefined],
      offline: undefined,
      environment: process.env,
      signal: undefined,
    });

  it("is uv where it is there and finds all that is needed", async () => {
    alone({ TRITONODE_UV: uv, UV_DEFAULT_INDEX: index.url("me:secret@") });
    const chosen = await ask();
    expect(chosen).toMatchObject({ name: "uv", program: uv });
    expect(chosen.sources).toEqual([index.url("***@")]);
  });

  it("is pip where uv does not find everything, or is not there", async () => {
    alone({ TRITONODE_UV: uv, UV_DEFAULT_INDEX: index.url() });
    expect(await ask(undefined, [...PINS, "third==1.0"])).toMatchObject({
      name: "pip",
      reason: expect.stringContaining("third"),
    });
    vi.stubEnv("TRITONODE_UV", "/nowhere/uv");
    expect(await ask()).toMatchObject({ name: "pip", program: undefined });
    await expect(ask("uv")).rejects.toMatchObject({ message: "uv is not at /nowhere/uv" });
  });

  it("is pip where its configuration names an index and uv's does not", async () => {
    alone({ TRITONODE_UV: uv, PIP_INDEX_URL: index.url("me:secret@"), PIP_FIND_LINKS: "/a /b" });
    expect(await ask()).toMatchObject({ name: "pip", sources: [index.url("***@"), "/a", "/b"].sort() });
    expect(index.asked).toEqual([]);
    expect(await ask("uv")).toMatchObject({ name: "uv", reason: "as asked for" });
    vi.stubEnv("TRITONODE_INSTALLER", "pip");
    expect(await ask()).toMatchObject({ name: "pip", reason: "as asked for" });
    await expect(ask("conda")).rejects.toMatchObject({ code: "ERR_INVALID_ARGUMENT" });
  });
});
