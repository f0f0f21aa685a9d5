// The packed package as others' tools see it: its manifest and files (publint), and what TypeScript finds under each way
// of resolving modules (@arethetypeswrong/cli).
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { main, output, root, start } from "./steps.mjs";

main(async () => {
  const folder = mkdtempSync(join(tmpdir(), "tritonode-types-"));
  try {
    const pack = ["pack", "--ignore-scripts", "--silent", "--pack-destination", folder];
    const npm = process.env.npm_execpath;
    await (npm === undefined ? output("npm", pack) : output(process.execPath, [npm, ...pack]));
    const tarball = join(folder, readdirSync(folder)[0]);
    const publint = [join(root, "node_modules/publint/src/cli.js"), "run", tarball, "--strict"];
    const types = [join(root, "node_modules/@arethetypeswrong/cli/dist/index.js"), tarball];
    let failed = 0;
    for (const args of [publint, types]) if ((await start(process.execPath, args)) !== 0) failed++;
    process.exitCode = failed === 0 ? 0 : 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
