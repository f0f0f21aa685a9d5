import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { InvalidArgumentError } from "../../src/errors";
import { bundle, SetupCancelledError, SetupError, type SetupProgress, setup } from "../../src/runtime";
import { baseDigest, digest, EXTRAS } from "../../src/runtime/packages/requirements";
import { fakePython, fakeRuntime, temporary } from "./runtime-files";

// These interpreters know no uv.
beforeEach(() => vi.stubEnv("TRITONODE_INSTALLER", "pip"));
afterEach(() => vi.unstubAllEnvs());

const refusal = (promise: Promise<unknown>): Promise<SetupError> =>
  promise.then(
    () => expect.unreachable("it was not refused"),
    (reason) => reason,
  );

describe("setup", () => {
  it("returns at once when the runtime is complete", async () => {
    const directory = temporary();
    await fakeRuntime(directory, { extras: { demo: digest(EXTRAS.demo) } });
    const before = readFileSync(join(directory, "manifest.json"), "utf8");
    const events: SetupProgress[] = [];
    const runtimes = await Promise.all(
      [[], ["demo"], []].map((extras) =>
        setup({ directory, device: "cpu", extras, onProgress: (event) => events.push(event) }),
      ),
    );
    for (const runtime of runtimes) expect(runtime.directory).toBe(directory);
    expect(new Set(events.map((event) => event.phase))).toEqual(new Set(["wait", "done"]));
    expect(readFileSync(join(directory, "manifest.json"), "utf8")).toBe(before);
    expect(readdirSync(directory)).not.toContain("lock");
  });

  it("refuses a folder with something of the user's in it, and leaves it as it was", async () => {
    const directory = temporary();
    writeFileSync(join(directory, "thesis.tex"), "");
    const error = await refusal(setup({ directory, device: "cpu" }));
    expect(error).toMatchObject({ code: "ERR_SETUP_DIRECTORY", message: expect.stringContaining("thesis.tex") });
    expect(readdirSync(directory)).toEqual(["thesis.tex"]);
  });

  it("never deletes a venv that it did not make", async () => {
    const directory = temporary();
    mkdirSync(join(directory, "venv"));
    writeFileSync(join(directory, "venv", "mine"), "");
    expect((await refusal(setup({ directory, device: "cpu" }))).code).toBe("ERR_SETUP_DIRECTORY");
    expect(existsSync(join(directory, "venv", "mine"))).toBe(true);
  });

  it("refuses to replace a runtime for the other device, unknown devices and unknown extras", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    expect((await refusal(setup({ directory, device: "cuda" }))).message).toContain("for cpu, not for cuda");
    await expect(setup({ directory, device: "tpu" as never })).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(setup({ directory, device: "cpu", extras: ["tests"] })).rejects.toThrow(/extra "tests" is not known/);
  });

  it("leaves nothing half-made when it is interrupted, and ends the installer", async () => {
    const directory = temporary();
    const python = fakePython(temporary(), "python3", { module: "echo started; exec sleep 60" });
    const controller = new AbortController();
    const error = await refusal(
      setup({
        directory,
        device: "cpu",
        python,
        signal: controller.signal,
        onProgress: ({ phase }) => {
          if (phase === "environment") setTimeout(() => controller.abort(), 100);
        },
      }),
    );
    expect(error).toBeInstanceOf(SetupCancelledError);
    expect(error.code).toBe("ERR_SETUP_CANCELLED");
    expect(readdirSync(directory).filter((name) => name !== "setup.log")).toEqual([]);
    // and the same folder takes another try
    const again = await refusal(setup({ directory, device: "cpu", python: fakePython(temporary(), "python3") }));
    expect(again.message).toMatch(/-m venv failed/);
    expect(again.hint).toContain("apt-get install python3.11-venv");
    expect(readdirSync(directory)).toEqual(["setup.log"]);
  });

  it("repairs what a killed setup left: the marked venv, its scratch folder, its lock", async () => {
    const directory = temporary();
    mkdirSync(join(directory, "venv"));
    writeFileSync(join(directory, "venv", "tritonode-runtime"), "");
    writeFileSync(join(directory, "venv", "half"), "");
    mkdirSync(join(directory, "scratch-abc123"));
    writeFileSync(
      join(directory, "lock"),
      JSON.stringify({ pid: 2 ** 30, startTime: "1", host: "" }).replace(
        '""',
        JSON.stringify((await import("node:os")).hostname()),
      ),
    );
    await refusal(setup({ directory, device: "cpu", python: fakePython(temporary(), "python3") }));
    expect(readdirSync(directory)).toEqual(["setup.log"]);
  });

  it("is told by its signal before it begins", async () => {
    await expect(setup({ directory: temporary(), device: "cpu", signal: AbortSignal.abort() })).rejects.toBeInstanceOf(
      SetupCancelledError,
    );
  });
});

describe("offline bundles", () => {
  const python = fakePython(temporary(), "python3");
  const fits = {
    schema: 1,
    tritonode: "0.1.0",
    device: "cpu",
    pythonVersion: "3.11",
    arch: process.arch,
    requirements: baseDigest("cpu", true),
    extras: {},
  };

  it.each([
    ["another device", { device: "cuda" }, /is for cuda, not for cpu/],
    ["another architecture", { arch: "riscv64" }, /is for riscv64/],
    ["another Python", { pythonVersion: "3.12" }, /is for Python 3\.12, not 3\.11/],
    ["other versions", { requirements: "0" }, /with other versions/],
    ["no such extra", {}, /lacks the extra "demo"/],
  ])("are refused for %s", async (_, changes, reason) => {
    const folder = temporary();
    mkdirSync(join(folder, "wheels"));
    writeFileSync(join(folder, "bundle.json"), JSON.stringify({ ...fits, ...changes }));
    const error = await refusal(
      setup({ directory: temporary(), device: "cpu", python, offline: folder, extras: ["demo"] }),
    );
    expect(error.code).toBe("ERR_SETUP_BUNDLE");
    expect(error.message).toMatch(reason);
  });

  it("are refused where there is none, or where it is something else", async () => {
    const options = { directory: temporary(), device: "cpu", python } as const;
    const steps: string[] = [];
    const watched = { onPlan: () => steps.push("plan"), onProgress: () => steps.push("progress") };
    const missing = await refusal(setup({ ...options, ...watched, offline: "/no.tar" }));
    expect(missing.message).toBe("the bundle /no.tar is not there");
    expect(steps).toEqual([]);
    expect((await refusal(setup({ ...options, offline: temporary() }))).message).toContain("not a bundle of tritonode");
  });

  it("are refused where they can't be unpacked", async () => {
    const file = join(temporary(), "a.tar");
    writeFileSync(file, "no tar");
    const error = await refusal(setup({ directory: temporary(), device: "cpu", python, offline: file }));
    expect(error).toMatchObject({ code: "ERR_SETUP_BUNDLE", message: expect.stringContaining("can't be unpacked") });
  });

  it("take known extras only", async () => {
    const options = { output: join(temporary(), "a.tar"), device: "cpu", python, extras: ["tests"] } as const;
    await expect(bundle(options)).rejects.toBeInstanceOf(InvalidArgumentError);
  });

  it("leave nothing beside the output when making one fails", async () => {
    const folder = temporary();
    await expect(bundle({ output: join(folder, "a.tar"), device: "cpu", python })).rejects.toBeInstanceOf(SetupError);
    expect(readdirSync(folder)).toEqual([]);
  });
});
