import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, it } from "vitest";
import { PythonNotFoundError } from "../../src/runtime";
import { candidates, findPython } from "../../src/runtime/find/python";
import { PYTHON_VERSIONS } from "../../src/runtime/packages/requirements";
import { unless } from "../support/skip";
import { fakePython, script, temporary } from "./runtime-files";

/** PATH with only these folders: the system's own Pythons in /usr/bin are looked at all the same, so tests name theirs. */
function environment(...folders: string[]): NodeJS.ProcessEnv {
  return { PATH: [...folders, "/bin"].join(":"), HOME: "/nowhere" };
}

async function refusal(options: Parameters<typeof findPython>[0]): Promise<PythonNotFoundError> {
  const error = await findPython(options).then(
    () => expect.unreachable("it was taken"),
    (reason) => reason,
  );
  expect(error).toBeInstanceOf(PythonNotFoundError);
  return error as PythonNotFoundError;
}

/** A conda environment's layout around a static interpreter: its own prefix, and a sysconfig that names it. */
function conda(interpreter: string): string {
  const prefix = realpathSync(temporary());
  const name = basename(interpreter);
  const [library, theirs] = [join(prefix, "lib", name), join("/usr/lib", name)];
  for (const folder of ["bin", "conda-meta", "lib"]) mkdirSync(join(prefix, folder));
  mkdirSync(library);
  copyFileSync(interpreter, join(prefix, "bin", name));
  symlinkSync(name, join(prefix, "bin/python3"));
  for (const entry of readdirSync(theirs)) {
    const [from, to] = [join(theirs, entry), join(library, entry)];
    if (!entry.startsWith("_sysconfigdata")) symlinkSync(from, to);
    else writeFileSync(to, readFileSync(from, "utf8").replace(/'(LIBDIR|LIBPL)': '[^']*'/g, `'$1': '${prefix}/lib'`));
  }
  return prefix;
}

describe("findPython", () => {
  it("takes the one that is named, by path or by name", async () => {
    const folder = temporary();
    const path = fakePython(folder, "python3.12", { version: [3, 12, 4] });
    const expected = { executable: path, base: path, fullVersion: "3.12.4", version: "3.12" };
    expect(await findPython({ python: path })).toMatchObject(expected);
    expect(await findPython({ python: "python3.12", environment: environment(folder) })).toMatchObject(expected);
  });

  it("reads the facts of a real Python, not only those that a script in a test prints", async () => {
    const found = await findPython({ environment: process.env });
    expect(found.fullVersion.startsWith(`${found.version}.`)).toBe(true);
    expect(existsSync(join(found.libpythonDirectory, `libpython${found.version}.so.1.0`))).toBe(true);
  });

  it("finds libpython beside it", async () => {
    const folder = temporary();
    expect((await findPython({ python: fakePython(folder, "python3") })).libpythonDirectory).toBe(
      join(folder, "lib-python3"),
    );
  });

  it.each([
    [
      "a version without wheels",
      { version: [3, 10, 1] as [number, number, number] },
      /is Python 3\.10\.1, not 3\.11 or 3\.12/,
    ],
    ["a newer one", { version: [3, 13, 0] as [number, number, number] }, /is Python 3\.13\.0/],
    ["PyPy", { implementation: "pypy" }, /is pypy, not CPython/],
    ["a 32-bit one", { bits: 32 }, /32-bit/],
    ["a static one", { shared: false }, /no libpython3\.11\.so\.1\.0 \(statically linked/],
    ["one without ensurepip", { ensurepip: false }, /no venv module/],
  ])("refuses %s and says which package brings a usable one", async (_, options, reason) => {
    const error = await refusal({ python: fakePython(temporary(), "python3", options) });
    expect(error.code).toBe("ERR_PYTHON_NOT_FOUND");
    expect(error.message).toMatch(reason);
    expect(error.hint).toMatch(/apt-get install (lib)?python3\.11/);
  });

  it("names the venv package where only that is missing", async () => {
    const error = await refusal({ python: fakePython(temporary(), "python3", { ensurepip: false }) });
    expect(error.hint).toMatch(/^apt-get install python3\.11-venv;/);
  });

  it("names the library's package for a system's Python without it, and conda's for a conda environment's", async () => {
    const version: [number, number, number] = [3, 12, 3];
    const system = await refusal({ python: fakePython(temporary(), "python3", { version, shared: false }) });
    expect(system.hint).toMatch(/^Debian and Ubuntu: apt-get install libpython3\.12 python3\.12-venv; /);
    const options = { version, shared: false, conda: "/opt/my conda" };
    const conda = await refusal({ python: fakePython(temporary(), "python3", options) });
    expect(conda.message).toMatch(/has no libpython3\.12\.so\.1\.0/);
    expect(conda.hint).toMatch(/^conda install --prefix '\/opt\/my conda' python=3\.12; /);
  });

  /** A real statically linked interpreter: that of Debian and Ubuntu. */
  const static_ = PYTHON_VERSIONS.map((version) => `/usr/bin/python${version}`).find((path) => existsSync(path));

  it(
    "finds conda's libpython, which its own interpreter does not load",
    unless(static_ === undefined, "no Python in /usr/bin"),
    async () => {
      const prefix = conda(static_ as string);
      const python = join(prefix, "bin/python3");
      const without = await refusal({ python });
      expect(without.message).toContain("statically linked");
      expect(without.hint).toMatch(/^conda install --prefix /);
      const name = `lib${basename(static_ as string)}.so.1.0`;
      writeFileSync(join(prefix, "lib", name), "");
      expect(await findPython({ python })).toMatchObject({ libpythonDirectory: join(prefix, "lib") });
    },
  );

  it("passes over a shim that does not run, with its own words", async () => {
    const folder = temporary();
    const shim = script(join(folder, "python3.11"), "echo 'pyenv: python3.11: command not found' >&2; exit 127");
    const error = await refusal({ python: shim });
    expect(error.message).toContain("exit code 127: pyenv: python3.11: command not found");
    expect((await refusal({ python: "/no/python" })).message).toContain("no such file");
  });

  it("prefers the version that is tested most, wherever it lies on PATH", async () => {
    const [first, second] = [temporary(), temporary()];
    fakePython(first, "python3.12", { version: [3, 12, 1] });
    fakePython(second, "python3.11");
    expect((await findPython({ environment: environment(first, second) })).version).toBe("3.11");
  });

  it("keeps to the version that an installed Triton's stub needs", async () => {
    const folder = temporary();
    fakePython(folder, "python3.11");
    fakePython(folder, "python3.12", { version: [3, 12, 1] });
    expect((await findPython({ version: "3.12", environment: environment(folder) })).version).toBe("3.12");
    const error = await refusal({ version: "3.12", python: join(folder, "python3.11") });
    expect(error.message).toContain("not 3.12");
  });

  it("lists what it looked at when none fits", async () => {
    const folder = temporary();
    fakePython(folder, "python3.9", { version: [3, 9, 1] });
    const error = await refusal({ version: "3.9", python: undefined, environment: { PATH: "", HOME: "/nowhere" } });
    expect(error.message).toMatch(/^no Python 3\.9 with a shared libpython was found/);
  });
});

describe("candidates", () => {
  it("looks into pyenv's versions, newest first", () => {
    const root = temporary();
    for (const version of ["3.11.4", "3.11.10", "3.12.1", "3.9.9"]) {
      const bin = join(root, "versions", version, "bin");
      mkdirSync(bin, { recursive: true });
      script(join(bin, `python${version.split(".").slice(0, 2).join(".")}`), "exit 0");
    }
    const found = candidates({ PATH: "", PYENV_ROOT: root, HOME: "/nowhere" }).filter((path) => path.startsWith(root));
    expect(found.map((path) => path.slice(root.length))).toEqual([
      "/versions/3.11.10/bin/python3.11",
      "/versions/3.11.4/bin/python3.11",
      "/versions/3.12.1/bin/python3.12",
    ]);
  });
});
