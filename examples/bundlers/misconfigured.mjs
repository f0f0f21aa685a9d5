// node misconfigured.mjs <case> <output folder>: app.mjs with the package bundled in, as each tool does it when it is not
// told otherwise. run.mjs holds the package to what it says then.
import { join } from "node:path";

const [name, outdir] = process.argv.slice(2);

const esbuild = async (options) => {
  const { build } = await import("esbuild");
  await build({ entryPoints: ["app.mjs"], bundle: true, platform: "node", minify: true, ...options });
};

const cases = {
  "esbuild-cjs": () => esbuild({ outfile: join(outdir, "app.cjs"), format: "cjs" }),
  // The usual line that gives a bundle of CommonJS packages its `require`; without it Node's own modules are missing.
  "esbuild-esm": () =>
    esbuild({
      outfile: join(outdir, "app.mjs"),
      format: "esm",
      banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
    }),
  webpack: async () => {
    const { default: webpack } = await import("webpack");
    const { default: config } = await import("./webpack/webpack.config.mjs");
    const output = { path: outdir, filename: "app.cjs" };
    await new Promise((resolve, reject) => {
      webpack({ ...config, externals: {}, output }, (error, stats) =>
        error === null && !stats.hasErrors() ? resolve() : reject(error ?? new Error(stats.toString())),
      );
    });
  },
  vite: async () => {
    const { build } = await import("vite");
    await build({ configFile: false, ssr: { noExternal: true }, build: { ssr: "app.mjs", outDir: outdir } });
  },
};

await cases[name]();
