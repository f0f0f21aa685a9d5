// Runs the package's JavaScript out of an Electron archive under plain Node: argv is the archive and, as JSON, the options
// of VllmModel.load. Modules are read from the archive, so `__dirname` lies inside app.asar as it does in Electron; unlike
// Electron's, this `fs` can't look into it, so every file that the code needs must be found in app.asar.unpacked.
const { existsSync, readFileSync } = require("node:fs");
const Module = require("node:module");
const { dirname, join, relative } = require("node:path");
const asar = require("@electron/asar");

const [archive, options] = process.argv.slice(2);
const loaded = new Map();

function isFile(path) {
  try {
    return "size" in asar.statFile(archive, relative(archive, path));
  } catch {
    return false;
  }
}

function load(file) {
  const known = loaded.get(file);
  if (known !== undefined) return known.exports;
  const module = new Module(file);
  module.filename = file;
  loaded.set(file, module);
  module.require = (id) => {
    if (!id.startsWith(".")) return require(id);
    const path = join(dirname(file), id);
    return load([path, `${path}.js`, join(path, "index.js")].find(isFile));
  };
  module._compile(asar.extractFile(archive, relative(archive, file)).toString(), file);
  return module.exports;
}

(async () => {
  const { VllmModel } = load(join(archive, "node_modules/tritonode/dist/index.js"));
  const model = await VllmModel.load(JSON.parse(options));
  try {
    const { text } = await model.generate("Hello, my name is", { lora: "lora_a", temperature: 0, max_tokens: 4 });
    const [child] = model.server.children;
    const mapped = (pid, name) =>
      new RegExp(`/.*/app\\.asar.*${name}$`, "m").exec(readFileSync(`/proc/${pid}/maps`, "utf8"))?.[0];
    console.log(
      JSON.stringify({
        text,
        modules: [...loaded.keys()].filter((path) => !path.startsWith(`${archive}/`) || existsSync(path)),
        addon: mapped(process.pid, "\\.node"),
        kernels: mapped(child.pid, "libtritonode_punica\\.so"),
      }),
    );
  } finally {
    await model.dispose();
  }
})().catch((error) => {
  console.error(`${error.code}: ${error.message}\n${error.hint}`);
  process.exitCode = 1;
});
