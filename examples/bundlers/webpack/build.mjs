// node webpack/build.mjs: app.mjs into webpack/out/app.cjs
import webpack from "webpack";
import config from "./webpack.config.mjs";

const stats = await new Promise((resolve, reject) => {
  webpack(config, (error, result) => (error === null ? resolve(result) : reject(error)));
});
console.log(stats.toString({ preset: "minimal", errorDetails: true }));
process.exitCode = stats.hasErrors() ? 1 : 0;
