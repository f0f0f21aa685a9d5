// `npm run test:offline`: a bundle in parts, and the runtime that `setup` makes of it in a network namespace without
// interfaces. Downloads about a gigabyte, takes 5 GB of disk while it runs.
import { listSkipped, reporter, skippedByVitest } from "./skipped.mjs";
import { build, main, prepared, root, start } from "./steps.mjs";

main(async () => {
  prepared();
  await build();
  process.env.TRITONODE_OFFLINE = "1";
  const vitest = ["node_modules/vitest/vitest.mjs", "run", "--reporter=verbose", reporter, "--typecheck.enabled=false"];
  const limits = ["--testTimeout=1200000"];
  process.exitCode = await start(process.execPath, [...vitest, ...limits, "test/integration/offline.test.ts"], {
    cwd: root,
  });
  listSkipped(skippedByVitest());
});
