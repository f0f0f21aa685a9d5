// `npm run chaos`: the tests of test/chaos and test/security with the long rows that `npm test` leaves out. What this
// machine cannot run is listed at the end.
import { listSkipped, reporter, skippedByVitest } from "./skipped.mjs";
import { build, main, prepared, root, start } from "./steps.mjs";

main(async () => {
  prepared();
  await build();
  process.env.TRITONODE_CHAOS = "1";
  const vitest = ["node_modules/vitest/vitest.mjs", "run", "--reporter=verbose", reporter, "--typecheck.enabled=false"];
  const paths = process.argv.length > 2 ? process.argv.slice(2) : ["test/chaos", "test/security"];
  process.exitCode = await start(process.execPath, [...vitest, ...paths], { cwd: root });
  listSkipped(skippedByVitest());
});
