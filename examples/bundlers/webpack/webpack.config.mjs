import { join } from "node:path";

export default {
  mode: "production",
  target: "node20",
  entry: "./app.mjs",
  output: { path: join(import.meta.dirname, "out"), filename: "app.cjs" },
  // The package stays in node_modules, with its addon and its backends/.
  externals: { tritonode: "commonjs tritonode" },
};
