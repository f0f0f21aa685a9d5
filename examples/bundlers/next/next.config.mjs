/** @type {import("next").NextConfig} */
export default {
  output: "standalone",
  // The package stays in node_modules ...
  serverExternalPackages: ["tritonode"],
  // ... and all of it goes with the standalone output: Next follows JavaScript only, to neither the addon nor backends/.
  outputFileTracingIncludes: { "/**": ["./node_modules/tritonode/**"] },
};
