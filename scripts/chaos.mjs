// `npm run chaos`: the tests of test/chaos and test/security with the long rows that `npm test` leaves out. What this
// machine cannot run is listed at the end. Arguments are paths, `-t NAME` (`--testNamePattern`) is vitest's own option.
import { readArguments } from "./arguments.mjs";
import { listSkipped, reporter, skippedByVitest } from "./skipped.mjs";
import { build, main, prepared, root, start } from "./steps.mjs";

const { values, positionals } = readArguments(
  import.meta.filename,
  { testNamePattern: { type: "string", short: "t" } },
  { allowPositionals: true },
);

main(async () => {
  prepared();
  await build();
  process.env.TRITONODE_CHAOS = "1";
  const vitest = ["node_modules/vitest/vitest.mjs", "run", "--reporter=verbose", reporter, "--typecheck.enabled=false"];
  if (values.testNamePattern !== undefined) vitest.push(`--testNamePattern=${values.testNamePattern}`);
  const paths = positionals.length > 0 ? positionals : ["test/chaos", "test/security"];
  process.exitCode = await start(process.execPath, [...vitest, ...paths], { cwd: root });
  listSkipped(skippedByVitest());
});
