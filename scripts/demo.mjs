// `npm run demo`: the tutorial, end to end, on a real model with two real adapters. Installs what is missing first.
import { join } from "node:path";
import { build, dependencies, main, root, run, runtime, say } from "./steps.mjs";

main(async () => {
  await dependencies();
  await build();
  const { python, directory } = await runtime(["demo"]);
  const workspace = join(root, "workspace");
  say("the tutorial's workspace: SmolLM2-135M-Instruct and two LoRA adapters");
  await run(python, ["examples/tutorial/workspace.py", "--out", workspace]);
  await run(process.execPath, ["examples/tutorial/demo.mjs", workspace, ...process.argv.slice(2)], {
    env: { ...process.env, TRITONODE_RUNTIME_DIR: directory },
  });
});
