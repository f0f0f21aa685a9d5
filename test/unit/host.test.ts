import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type Host, hostObstacle, thisHost } from "../../src/host";
import { addonCandidates, explainFailure, openAddon } from "../../src/native/addon-file";
import { temporary } from "./runtime-files";

const root = join(__dirname, "../..");
const linux: Host = { platform: "linux", arch: "x64", glibc: "2.36" };

describe("what a machine lacks", () => {
  test.each([
    ["Windows", { platform: "win32", arch: "x64", glibc: undefined }, /Windows/, /WSL2/],
    ["macOS", { platform: "darwin", arch: "arm64", glibc: undefined }, /macOS/, /docker run/],
    ["FreeBSD", { platform: "freebsd", arch: "x64", glibc: undefined }, /freebsd/, /container/],
    ["Alpine", { ...linux, glibc: undefined }, /musl/, /node:24-bookworm/],
    ["an old glibc", { ...linux, glibc: "2.31" }, /needs? glibc 2\.35, and this Linux has 2\.31/, /Ubuntu 22\.04/],
    ["32 bits", { ...linux, arch: "arm" }, /arm/, /container/],
  ] as [string, Host, RegExp, RegExp][])("%s: one line why, one line what to do", (_, host, reason, hint) => {
    const obstacle = hostObstacle(host);
    expect(obstacle?.reason).toMatch(reason);
    expect(obstacle?.hint).toMatch(hint);
    expect(`${obstacle?.reason}${obstacle?.hint}`).not.toContain("\n");
  });

  test("nothing on the machines that the README names", () => {
    for (const arch of ["x64", "arm64"]) expect(hostObstacle({ ...linux, arch, glibc: "2.35" })).toBeUndefined();
    expect(thisHost().glibc).toMatch(/^2\.\d+$/);
  });
});

/** The package's code in a process that takes itself for another platform: what npm would have installed there too. */
function elsewhere(platform: string, script: string, ...args: string[]) {
  const pretend = join(temporary(), "pretend.cjs");
  const glibc = platform === "alpine" ? "delete report.header.glibcVersionRuntime;" : "";
  const name = platform === "alpine" ? "linux" : platform;
  writeFileSync(
    pretend,
    `Object.defineProperty(process, "platform", { value: ${JSON.stringify(name)} });
     const getReport = process.report.getReport.bind(process.report);
     process.report.getReport = () => { const report = getReport(); ${glibc} return report; };`,
  );
  return spawnSync(process.execPath, ["--require", pretend, ...(script === "" ? args : ["--eval", script, ...args])], {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, NO_COLOR: "1" },
  });
}

describe.each([
  ["darwin", "macOS"],
  ["win32", "Windows"],
])("on %s", (platform, word) => {
  test("import works, and load says why not in one line", () => {
    const script = `
      const { VllmModel } = require("./dist/index.js");
      VllmModel.load({ engine: { model: "x" } }).catch((error) => console.log(JSON.stringify({ ...error, message: error.message })));`;
    const run = elsewhere(platform, script);
    expect(run.stderr).toBe("");
    const error = JSON.parse(run.stdout) as { code: string; message: string; hint: string };
    expect(error.code).toBe("ERR_ADDON_LOAD");
    expect(error.message).toContain(`this is ${word}`);
    expect(error.message).not.toContain("\n");
    expect(error.hint).toMatch(/WSL2|container/);
  });

  test("doctor says the same and nothing after it; setup refuses before it does anything", () => {
    const doctor = elsewhere(platform, "", "dist/cli/main.js", "doctor", "--json");
    const checks = doctor.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { name: string; status: string; detail: string });
    expect(checks.map(({ name, status }) => [name, status])).toEqual([
      ["Node.js", "ok"],
      ["platform", "fail"],
    ]);
    expect(doctor.status).toBe(1);
    const folder = join(temporary(), "runtime");
    const setup = elsewhere(platform, "", "dist/cli/main.js", "setup", "--dir", folder);
    expect(setup.stderr).toContain(`this is ${word}`);
    expect(setup.stderr).toContain("ERR_SETUP_PLATFORM");
    expect(setup.status).toBe(1);
  });
});

test("on musl, doctor stops at the platform's line", () => {
  const doctor = elsewhere("alpine", "", "dist/cli/main.js", "doctor");
  expect(doctor.stdout).toMatch(/FAIL {2}platform .*musl/);
  expect(doctor.stdout).not.toContain("addon");
});

describe("the addon's file", () => {
  const require = createRequire(__filename);

  test("each candidate is named with its reason, and what to do for this one", () => {
    const folder = temporary();
    const [built = "", , prebuilt = ""] = addonCandidates(folder, linux);
    for (const path of [built, prebuilt]) mkdirSync(join(path, ".."), { recursive: true });
    writeFileSync(built, "not a library, but as long as the header of one ".repeat(4));
    const failed = openAddon(addonCandidates(folder, linux), require);
    expect(failed).toMatchObject([{ path: built }, { reason: "no such file" }, { path: prebuilt }]);
    const { reason, hint } = explainFailure(failed as Exclude<typeof failed, NodeJS.Require>, folder, linux);
    expect(reason).toContain(`${built} is damaged or was made for another machine`);
    for (const path of addonCandidates(folder, linux)) expect(reason).toContain(`\n  ${path}: `);
    expect(hint).toContain("npx tritonode build");
  });

  test("what the user built is taken before what came with the package", () => {
    const folder = temporary();
    const [built = "", , prebuilt = ""] = addonCandidates(folder);
    for (const path of [built, prebuilt]) {
      mkdirSync(join(path, ".."), { recursive: true });
      copyFileSync(join(root, `prebuilds/linux-${process.arch}/tritonode.glibc.node`), path);
    }
    const opened: string[] = [];
    openAddon(addonCandidates(folder), (path) => opened.push(path));
    expect(opened).toEqual([built]);
  });

  test.each([
    ["/lib/libc.so.6: version `GLIBC_2.38' not found (required by x)", /needs glibc 2\.38, and this Linux has 2\.36/],
    [
      "/lib/libstdc++.so.6: version `GLIBCXX_3.4.30' not found (required by x)",
      /later libstdc\+\+ \(GLIBCXX_3\.4\.30\)/,
    ],
    ["x: wrong ELF class: ELFCLASS32", /made for another machine/],
    ["x: failed to map segment from shared object", /noexec/],
  ])("%s", (text, reason) => {
    const failed = [{ path: "/p/x", reason: text }];
    expect(explainFailure(failed, "/p", linux).reason).toMatch(reason);
    expect(explainFailure(failed, "/p", linux).reason).toContain(`\n  /p/x: ${text}`);
  });

  test("musl is the reason, whatever the loader said", () => {
    const failed = [{ path: "/p/x", reason: "Error relocating /p/x: fcntl64: symbol not found" }];
    expect(explainFailure(failed, "/p", { ...linux, glibc: undefined })).toMatchObject({
      reason: expect.stringMatching(/^Triton's libraries need glibc[\s\S]*fcntl64/),
      hint: expect.stringContaining("bookworm"),
    });
  });

  test("an empty package is a bundler's work", () => {
    const folder = temporary();
    const failed = openAddon(addonCandidates(folder, linux), require) as { path: string; reason: string }[];
    expect(explainFailure(failed, folder, linux).reason).toContain(`${folder} holds no native addon`);
  });
});
