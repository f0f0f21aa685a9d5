import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createPackageWithOptions } from "@electron/asar";
import { describe, expect, test } from "vitest";
import { PackageFilesError } from "../../src";
import { findPackage, outsideArchive, packageRoot } from "../../src/package-root";
import { temporaryFolder } from "../support/folders";
import { root } from "../support/paths";

const folder = temporaryFolder();

/** What an app has of this package: `files` are the paths in it. */
function application(name: string, ...files: string[]): { app: string; installed: string } {
  const app = join(folder, name);
  const installed = join(app, "node_modules/tritonode");
  for (const file of ["package.json", "dist/index.js", ...files]) {
    mkdirSync(dirname(join(installed, file)), { recursive: true });
    writeFileSync(join(installed, file), file === "package.json" ? '{ "name": "tritonode" }' : "");
  }
  writeFileSync(join(app, "package.json"), '{ "name": "an-app" }');
  return { app, installed };
}

function refusal(directory: string | undefined): PackageFilesError {
  try {
    findPackage(directory);
  } catch (error) {
    expect(error).toBeInstanceOf(PackageFilesError);
    return error as PackageFilesError;
  }
  throw new Error(`${directory} was taken for a package`);
}

const electronGlob = "**/node_modules/tritonode/**";

async function archive(app: string, unpack?: string): Promise<string> {
  const path = join(`${app} packed`, "resources/app.asar");
  await createPackageWithOptions(app, path, unpack === undefined ? {} : { unpack });
  return path;
}

test("the package is the folder above its code", () => {
  expect(packageRoot()).toBe(root);
  const { installed } = application("plain", "backends/vllm/model.py");
  expect(findPackage(join(installed, "dist"))).toBe(installed);
});

describe("an archive of Electron", () => {
  test("from code in app.asar, the package is the one in app.asar.unpacked", async () => {
    const { app } = application("whole", "backends/vllm/model.py");
    const path = await archive(app, electronGlob);
    const inside = join(path, "node_modules/tritonode");
    expect(findPackage(join(inside, "dist"))).toBe(join(`${path}.unpacked`, "node_modules/tritonode"));
    expect(outsideArchive(join(inside, "build/Release/tritonode.node"))).toBe(
      join(`${path}.unpacked`, "node_modules/tritonode/build/Release/tritonode.node"),
    );
  });

  test("one that holds everything: the files to keep outside, by their patterns", async () => {
    const { app } = application("sealed", "backends/vllm/model.py");
    const path = await archive(app);
    const error = refusal(join(path, "node_modules/tritonode/dist"));
    expect(error).toMatchObject({ code: "ERR_PACKAGE_FILES", hint: expect.stringContaining("asarUnpack") });
    expect(error.hint).toContain(electronGlob);
    expect(error.message).toContain(join(`${path}.unpacked`, "node_modules/tritonode"));
  });

  test("one that keeps the native files outside and not the Python ones is not taken for complete", async () => {
    const { app } = application("native only", "backends/vllm/model.py", "prebuilds/linux-x64/tritonode.glibc.node");
    const path = await archive(app, "**/*.node");
    expect(refusal(join(path, "node_modules/tritonode/dist")).hint).toContain("asarUnpack");
  });

  test("a path that only looks like one stays as it is", () => {
    const { installed } = application("folder.asar", "backends/vllm/model.py");
    expect(findPackage(join(installed, "dist"))).toBe(installed);
    for (const path of [`${folder}/app.asar.unpacked/x`, `${folder}/nowhere.asar/x`, `${folder}/my.asarfile/x`]) {
      expect(outsideArchive(path)).toBe(path);
    }
  });

  test("Electron's own switch is left as it was", () => {
    const electron = process as { noAsar?: boolean };
    outsideArchive(join(folder, "some.asar/x"));
    expect("noAsar" in electron).toBe(false);
    electron.noAsar = false;
    try {
      outsideArchive(join(folder, "some.asar/x"));
      expect(electron.noAsar).toBe(false);
    } finally {
      delete electron.noAsar;
    }
  });
});

describe("code that was moved away from its files", () => {
  const external = /esbuild.*webpack.*Vite.*serverExternalPackages/;

  test("into a bundle, beside an app's own package.json or beside none", () => {
    const { app } = application("bundled");
    for (const directory of [join(app, "out"), "/ROOT/node_modules/tritonode/dist"]) {
      const error = refusal(directory);
      expect(error).toMatchObject({ code: "ERR_PACKAGE_FILES", hint: expect.stringMatching(external) });
      expect(error.message).toContain(directory);
    }
    expect(refusal(undefined).hint).toMatch(external);
  });

  test("with package.json and without backends/, as a tracer of JavaScript copies it", () => {
    const { installed } = application("traced");
    const error = refusal(join(installed, "dist"));
    expect(error.message).toContain(join(installed, "backends/vllm"));
    expect(error.hint).toContain("outputFileTracingIncludes");
  });

  test("each error is one line", () => {
    for (const error of [refusal("/nowhere"), refusal(join(folder, "traced/node_modules/tritonode/dist"))]) {
      expect(`${error.message}${error.hint}`).not.toContain("\n");
    }
  });
});
