import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { main } from "../../src/cli/main";
import type { SetupError } from "../../src/runtime";
import { checkStored, findStored } from "../../src/runtime/check/stored";
import { defaultDirectory } from "../../src/runtime/find/paths";
import { acquireLock } from "../../src/runtime/install/lock";
import { installedRuntimes, remember, remove } from "../../src/runtime/install/remove";
import { context } from "./cli-context";
import { fakeRuntime, temporary } from "./runtime-files";

const refusal = (promise: Promise<unknown>): Promise<SetupError> =>
  promise.then(
    () => expect.unreachable("it was not refused"),
    (reason) => reason,
  );

const children: ChildProcess[] = [];
afterAll(() => {
  for (const child of children) child.kill("SIGKILL");
});

/** A data folder with a runtime in each of these folders of it. */
async function dataFolder(...names: string[]): Promise<{ environment: NodeJS.ProcessEnv; folder: string }> {
  const data = temporary();
  for (const name of names) {
    const directory = join(data, "tritonode", name);
    mkdirSync(directory, { recursive: true });
    await fakeRuntime(directory);
  }
  return { environment: { XDG_DATA_HOME: data, HOME: temporary() }, folder: join(data, "tritonode") };
}

describe("remove", () => {
  it("deletes what setup made, and the folder with it", async () => {
    const directory = join(temporary(), "runtime");
    mkdirSync(directory);
    await fakeRuntime(directory);
    for (const name of ["setup.log", "lock.1.ab"]) writeFileSync(join(directory, name), "");
    mkdirSync(join(directory, "scratch-abc123"));
    // fakeRuntime's own libpython stands where a system's would
    const { kept } = await remove(directory);
    expect(kept).toEqual(["libpython"]);
    expect(readdirSync(directory)).toEqual(["libpython"]);
    const bare = join(temporary(), "bare");
    mkdirSync(join(bare, "venv"), { recursive: true });
    writeFileSync(join(bare, "venv", "tritonode-runtime"), "");
    expect(await remove(bare)).toEqual({ directory: bare, kept: [] });
    expect(existsSync(bare)).toBe(false);
  });

  it("follows no link out of the folder", async () => {
    const [directory, elsewhere] = [temporary(), temporary()];
    writeFileSync(join(elsewhere, "thesis.tex"), "");
    symlinkSync(elsewhere, join(directory, "venv"));
    writeFileSync(join(directory, "manifest.json"), "{}");
    await remove(directory);
    expect(readdirSync(elsewhere)).toEqual(["thesis.tex"]);
    expect(existsSync(directory)).toBe(false);
  });

  it("refuses a folder that setup did not make, and leaves it as it was", async () => {
    const directory = temporary();
    mkdirSync(join(directory, "venv"));
    writeFileSync(join(directory, "venv", "mine"), "");
    for (const folder of [directory, join(directory, "venv"), "/nowhere"]) {
      expect(await refusal(remove(folder))).toMatchObject({ code: "ERR_SETUP_DIRECTORY" });
    }
    expect(existsSync(join(directory, "venv", "mine"))).toBe(true);
  });

  it("refuses while a setup holds the lock, here or on another machine", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    const lock = await acquireLock(directory);
    const error = await refusal(remove(directory));
    expect(error).toMatchObject({ code: "ERR_SETUP_LOCKED", message: expect.stringContaining(String(process.pid)) });
    await lock.release();
    writeFileSync(join(directory, "lock"), JSON.stringify({ pid: 1, startTime: "1", host: `not-${hostname()}` }));
    expect(await refusal(remove(directory))).toMatchObject({ code: "ERR_SETUP_LOCKED" });
    expect(existsSync(join(directory, "manifest.json"))).toBe(true);
  });

  it("refuses while a process runs from it", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    const program = join(directory, "venv", "bin", "sleep");
    copyFileSync("/bin/sleep", program);
    chmodSync(program, 0o755);
    const child = spawn(program, ["600"], { stdio: "ignore" });
    children.push(child);
    await new Promise((resolve) => child.once("spawn", resolve));
    expect(await refusal(remove(directory))).toMatchObject({
      code: "ERR_RUNTIME_IN_USE",
      message: expect.stringContaining(String(child.pid)),
    });
    expect(existsSync(join(directory, "manifest.json"))).toBe(true);
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
    await remove(directory);
    expect(existsSync(join(directory, "venv"))).toBe(false);
  });

  it("ends what an interrupted removal left", async () => {
    const directory = temporary();
    mkdirSync(join(directory, "scratch-abc123"));
    writeFileSync(join(directory, "scratch-abc123", "half"), "");
    await remove(directory);
    expect(existsSync(directory)).toBe(false);
  });
});

describe("tritonode remove", () => {
  it("deletes every version's runtime with --all", async () => {
    const { environment, folder } = await dataFolder("0.0.9-cpu", "0.1.0-cuda");
    const surroundings = context({ environment });
    expect(await main(["remove", "--all", "--yes"], surroundings)).toBe(0);
    expect(surroundings.stdout.text).toMatch(/removed: .*0\.0\.9-cpu[\s\S]*removed: .*0\.1\.0-cuda/);
    expect(installedRuntimes(environment)).toEqual([]);
    expect(readdirSync(join(folder, "0.0.9-cpu"))).toEqual(["libpython"]);
    const again = context({ environment });
    expect(await main(["remove", "--all", "--yes"], again)).toBe(0);
    expect(again.stdout.text).toBe("there is no runtime to remove\n");
  });

  it("deletes this version's runtime for a device, and one in a folder", async () => {
    const { environment } = await dataFolder();
    const directory = defaultDirectory("cpu", environment);
    for (const words of [
      ["--device", "cpu"],
      ["--dir", directory],
    ]) {
      mkdirSync(directory, { recursive: true });
      await fakeRuntime(directory);
      expect(await main(["remove", ...words, "-y"], context({ environment }))).toBe(0);
      expect(installedRuntimes(environment)).toEqual([]);
    }
  });

  it("wants to be told which, and to be sure", async () => {
    const { environment, folder } = await dataFolder("0.0.9-cpu");
    const which = context({ environment });
    expect(await main(["remove", "--yes"], which)).toBe(2);
    expect(which.stderr.text).toContain("give one of --dir");
    expect(await main(["remove", "--all", "--dir", folder, "--yes"], context({ environment }))).toBe(2);
    // no terminal to ask on
    const sure = context({ environment });
    expect(await main(["remove", "--all"], sure)).toBe(2);
    expect(sure.stderr.text).toContain("add --yes");
    const other = context({ environment });
    expect(await main(["remove", "--dir", temporary()], other)).toBe(1);
    expect(other.stderr.text).toContain("there is no runtime in ");
    expect(other.stderr.text).not.toContain("--yes");
    expect(installedRuntimes(environment)).toHaveLength(1);
  });
});

describe("what stays on the disk", () => {
  it("is named by doctor: runtimes of every version, caches", async () => {
    const { environment, folder } = await dataFolder("0.0.9-cpu");
    const half = join(folder, "0.1.0-cuda");
    mkdirSync(join(half, "scratch-abc123"), { recursive: true });
    mkdirSync(join(environment.HOME ?? "", ".cache", "vllm"), { recursive: true });
    const check = checkStored(findStored(environment), environment);
    expect(check.status).toBe("warn");
    expect(check.detail).toContain(`${join(folder, "0.0.9-cpu")}, ${half} (partial)`);
    expect(check.detail).toContain(join(environment.HOME ?? "", ".cache", "vllm"));
    expect(check.fix).toContain(`npx tritonode remove --dir ${join(folder, "0.0.9-cpu")}`);
    expect(check.fix).toContain(`npx tritonode remove --dir ${half}`);
  });

  it("is named wherever setup was told to put it, until it is removed", async () => {
    const { environment } = await dataFolder();
    const directory = temporary();
    await fakeRuntime(directory);
    await remember(directory, environment);
    await remember(directory, environment);
    expect(installedRuntimes(environment)).toEqual([{ directory, state: "complete" }]);
    const check = checkStored(findStored(environment), environment);
    expect(check).toMatchObject({ status: "ok", detail: expect.stringContaining(directory) });
    expect(await main(["remove", "--all", "--yes"], context({ environment }))).toBe(0);
    expect(existsSync(join(directory, "venv"))).toBe(false);
    expect(readdirSync(join(environment.XDG_DATA_HOME ?? "", "tritonode"))).toEqual([]);
  });

  it("is forgotten where somebody has deleted the folder, by the next remove or setup", async () => {
    const { environment } = await dataFolder();
    const links = () => readdirSync(join(environment.XDG_DATA_HOME ?? "", "tritonode"));
    const [gone, emptied, kept] = [temporary(), temporary(), temporary()];
    for (const directory of [gone, emptied, kept]) {
      await fakeRuntime(directory);
      await remember(directory, environment);
    }
    expect(links()).toHaveLength(3);
    rmSync(gone, { recursive: true });
    for (const name of readdirSync(emptied)) rmSync(join(emptied, name), { recursive: true });
    const check = checkStored(findStored(environment), environment);
    expect(check).toMatchObject({ status: "ok", detail: expect.stringContaining(`runtimes: ${kept};`) });
    expect(await main(["remove", "--dir", gone, "--yes"], context({ environment }))).toBe(1);
    expect(links()).toHaveLength(1);
    rmSync(kept, { recursive: true });
    const next = temporary();
    await fakeRuntime(next);
    await remember(next, environment);
    expect(links()).toHaveLength(1);
    expect(installedRuntimes(environment)).toEqual([{ directory: next, state: "complete" }]);
  });

  it("is no warning where this version uses it", async () => {
    const { environment } = await dataFolder();
    mkdirSync(defaultDirectory("cpu", environment), { recursive: true });
    await fakeRuntime(defaultDirectory("cpu", environment));
    expect(checkStored(findStored(environment), environment)).toMatchObject({ status: "ok" });
    expect(checkStored(findStored({ HOME: temporary() }), { HOME: temporary() }).detail).toContain("no runtime");
  });
});
