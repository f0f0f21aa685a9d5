// node esbuild/build.mjs: app.mjs into esbuild/out/app.mjs
import { build } from "esbuild";

await build({
  entryPoints: ["app.mjs"],
  outfile: "esbuild/out/app.mjs",
  bundle: true,
  platform: "node",
  format: "esm",
  // The package stays in node_modules, with its addon and its backends/.
  external: ["tritonode"],
});
