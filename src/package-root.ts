import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, join, sep } from "node:path";
import { PackageFilesError } from "./errors";

let known: string | undefined;

/**
 * The package's own folder on disk, where the addon and `backends/` lie. Looked for at the first use, so that importing
 * the package never throws.
 *
 * @throws {@link PackageFilesError} where the code was moved without the files.
 */
export function packageRoot(): string {
  // A bundle that is an ES module has no __dirname at all.
  known ??= findPackage(typeof __dirname === "undefined" ? undefined : __dirname);
  return known;
}

/** The package whose code lies in `directory` (dist/, or src/ in a checkout): the folder above it. */
export function findPackage(directory: string | undefined): string {
  if (directory === undefined) throw bundled("an ES module");
  const own = dirname(directory);
  const root = outsideArchive(own);
  const complete = packageName(root) === "tritonode" && existsSync(join(root, "backends", "vllm", "model.py"));
  if (complete) return root;
  if (root !== own) {
    throw new PackageFilesError(`tritonode's files are inside an archive: there is no complete ${root} beside it`, {
      hint: 'keep them outside: asarUnpack: ["**/node_modules/tritonode/**"] for electron-builder, the same pattern as packagerConfig.asar.unpack for Electron Forge',
    });
  }
  if (packageName(root) !== "tritonode") throw bundled(directory);
  throw new PackageFilesError(
    `tritonode was copied without its backends/: there is no ${join(root, "backends/vllm")}`,
    {
      hint: 'copy the whole package; for Next.js\'s standalone output: outputFileTracingIncludes: { "/**": ["./node_modules/tritonode/**"] }',
    },
  );
}

/**
 * The same path with `app.asar` replaced by `app.asar.unpacked`. Electron's own `fs` reads the archive as if it were a
 * folder; dlopen, Triton and Python read files only, and those lie beside it.
 */
export function outsideArchive(path: string): string {
  const parts = path.split(sep);
  for (const [index, part] of parts.entries()) {
    if (!part.endsWith(".asar") || !isFile(parts.slice(0, index + 1).join(sep))) continue;
    parts[index] = `${part}.unpacked`;
    return parts.join(sep);
  }
  return path;
}

/** Whether a path is a file on disk: an archive is one, unless Electron's `fs` is asked without this switch of its own. */
function isFile(path: string): boolean {
  const electron = process as { noAsar?: boolean };
  const { noAsar } = electron;
  electron.noAsar = true;
  try {
    return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
  } finally {
    if (noAsar === undefined) delete electron.noAsar;
    else electron.noAsar = noAsar;
  }
}

function packageName(root: string): unknown {
  try {
    return (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { name?: unknown }).name;
  } catch {
    return undefined;
  }
}

function bundled(where: string): PackageFilesError {
  return new PackageFilesError(`tritonode's code was bundled (into ${where}), away from its addon and its backends/`, {
    hint: 'mark "tritonode" as external: `external` of esbuild, `externals` of webpack, `ssr.external` of Vite, `serverExternalPackages` of Next.js',
  });
}
