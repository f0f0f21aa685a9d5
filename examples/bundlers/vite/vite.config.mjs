import { defineConfig } from "vite";

export default defineConfig({
  // The package stays in node_modules, with its addon and its backends/. Vite leaves installed packages there anyway, but
  // not linked ones (a workspace, `npm link`), and none at all with `noExternal: true`.
  ssr: { external: ["tritonode"] },
  build: { ssr: "app.mjs", outDir: "vite/out" },
});
