// `npm run chaos`: the tests of test/chaos and test/security with the long rows that `npm test` leaves out.
import { build, main, prepared, root, start } from "./steps.mjs";

main(async () => {
  prepared();
  await build();
  process.env.TRITONODE_CHAOS = "1";
  const vitest = ["node_modules/vitest/vitest.mjs", "run", "--reporter=verbose", "--typecheck.enabled=false"];
  const paths = process.argv.length > 2 ? process.argv.slice(2) : ["test/chaos", "test/security"];
  process.exitCode = await start(process.execPath, [...vitest, ...paths], { cwd: root });
});
