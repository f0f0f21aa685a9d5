// Runs the modules of documentation blocks in their order, in this working directory:
//
//   node snippet-runner.mjs HOLD MODULE…
//
// HOLD is a module that loads a model, or "-". Its default export stays loaded until all have run: the modules' own loads of
// the same model join it. Writes one line of JSON for each module: { module, output, error }.
import { join } from "node:path";
import { inspect } from "node:util";

const [hold, ...modules] = process.argv.slice(2);
const write = process.stdout.write.bind(process.stdout);
let output = "";
process.stdout.write = (text) => {
  output += text;
  return true;
};
const load = (module) => import(join(process.cwd(), module));

const held = hold === "-" ? undefined : (await load(hold)).default;
globalThis.given = { model: held };
for (const module of modules) {
  output = "";
  let error;
  try {
    await load(module);
  } catch (reason) {
    error = inspect(reason);
  }
  write(`${JSON.stringify({ module, output, error })}\n`);
}
await held?.dispose();
