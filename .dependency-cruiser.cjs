// The arrows between the folders of src/: whatever is not listed here is an error, and so is every circle. Checked by
// `npm test` (scripts/test.mjs); one run of it alone: npx depcruise --config .dependency-cruiser.cjs src
//
//   cli → model → server → transport → native (the addon)
//   runtime beside them: it finds, installs and checks what they run on. Inside it: check → install → find → packages
//   common below all: errors, and small things without a layer of their own

const common = "^src/(common/|errors\\.ts$|package-root\\.ts$|host\\.ts$)";
const layer = (name) => `^src/${name}/`;
const node = { dependencyTypes: ["core"] };
const parts = ["^src/runtime/(runtime|errors|process)\\.ts$", common];
const below = {
  packages: parts,
  find: [layer("runtime/packages"), ...parts],
  install: [layer("runtime/find"), layer("runtime/packages"), ...parts],
  check: [layer("runtime/install"), layer("runtime/find"), layer("runtime/packages"), ...parts],
};

/** @type {import("dependency-cruiser").IConfiguration} */
module.exports = {
  forbidden: [
    {
      name: "no-circles",
      comment: "A circle hides which of two modules is built on the other.",
      severity: "error",
      from: {},
      to: { circular: true },
    },
    {
      name: "no-packages",
      comment: "The package has no run-time dependency; two subpaths use what their users have installed.",
      severity: "error",
      from: { path: "^src/", pathNot: "^src/(ai-sdk|opentelemetry)/" },
      to: { dependencyTypes: ["npm", "npm-dev", "npm-no-pkg", "unknown", "undetermined"] },
    },
  ],
  allowedSeverity: "error",
  allowed: [
    { from: {}, to: node },
    { from: { path: common }, to: { path: common } },
    { from: { path: layer("native") }, to: { path: [layer("native"), common] } },
    { from: { path: layer("runtime/packages") }, to: { path: [layer("runtime/packages"), ...below.packages] } },
    { from: { path: layer("runtime/find") }, to: { path: [layer("runtime/find"), ...below.find] } },
    { from: { path: layer("runtime/install") }, to: { path: [layer("runtime/install"), ...below.install] } },
    // doctor says whether the addon can be loaded.
    { from: { path: layer("runtime/check") }, to: { path: [layer("runtime/check"), layer("native"), ...below.check] } },
    { from: { path: parts[0] }, to: { path: parts } },
    { from: { path: "^src/runtime/index\\.ts$" }, to: { path: layer("runtime") } },
    // Of the runtime only where its parts are.
    {
      from: { path: layer("transport") },
      to: { path: [layer("transport"), layer("native"), layer("runtime/find"), ...parts] },
    },
    {
      from: { path: layer("server") },
      to: { path: [layer("server"), layer("transport"), layer("native"), layer("runtime/find"), ...parts] },
    },
    {
      from: { path: layer("model") },
      to: { path: [layer("model"), layer("server"), layer("transport"), layer("runtime"), common] },
    },
    { from: { path: layer("cli") }, to: { path: [layer("cli"), layer("model"), layer("runtime"), common] } },
    // Subpaths of the package, over its public face.
    {
      from: { path: layer("ai-sdk") },
      to: { path: [layer("ai-sdk"), layer("model"), "^node_modules/@ai-sdk/provider/", common] },
    },
    {
      from: { path: layer("opentelemetry") },
      to: { path: [layer("opentelemetry"), layer("model"), "^node_modules/@opentelemetry/api/", common] },
    },
    { from: { path: "^src/index\\.ts$" }, to: { path: [layer("model"), layer("server"), layer("runtime"), common] } },
  ],
  options: {
    // Types are dependencies too: they decide what a layer must know.
    tsPreCompilationDeps: true,
    // TypeScript 7 has no compiler that a program could call.
    parser: "swc",
    tsConfig: { fileName: "tsconfig.json" },
    doNotFollow: { path: "node_modules" },
  },
};
