// The arguments of the scripts: read before anything is installed, built or started, so that a mistake is answered at once.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";

/**
 * A script's arguments. With `--help` the comment at the head of its file is written, and this process ends; it ends with
 * exit code 1 on an option that the script does not have.
 *
 * @param {string} file the script's own path (`import.meta.filename`)
 * @param {object} options as `parseArgs` of node:util takes them
 * @param {{ allowPositionals?: boolean, check?: (found: { values: object, positionals: string[] }) => void }} [more]
 *   `check` throws where a value is wrong
 * @returns {{ values: object, positionals: string[] }}
 */
export function readArguments(file, options, { allowPositionals = false, check = () => {} } = {}) {
  const all = { ...options, help: { type: "boolean", short: "h" } };
  try {
    const found = parseArgs({ options: all, allowPositionals });
    if (found.values.help) {
      process.stdout.write(headComment(file));
      process.exit(0);
    }
    check(found);
    return found;
  } catch (error) {
    process.stderr.write(`failed: ${explain(error, Object.keys(all))}\n`);
    process.exit(1);
  }
}

/** Throws unless the table or list has that name. */
export function checkName(what, name, names) {
  const list = Array.isArray(names) ? names : Object.keys(names);
  if (!list.includes(name)) throw new Error(`no ${what} ${name}: there are ${list.join(", ")}`);
}

/** Throws unless the values of these options are whole numbers above 0. */
export function checkCounts(values, ...options) {
  for (const option of options) {
    if (!/^0*[1-9]\d*$/.test(values[option])) {
      throw new Error(`--${option} ${values[option]} is not a whole number above 0`);
    }
  }
}

function headComment(file) {
  const lines = readFileSync(file, "utf8").split("\n");
  const end = lines.findIndex((line) => !line.startsWith("//"));
  return lines
    .slice(0, end)
    .map((line) => `${line.replace(/^\/\/ ?/, "")}\n`)
    .join("");
}

/** parseArgs names an option that is not known, but not those that are. */
function explain({ code, message }, names) {
  const unknown = code === "ERR_PARSE_ARGS_UNKNOWN_OPTION" ? /^Unknown option '([^']*)'/.exec(message)?.[1] : undefined;
  return unknown === undefined
    ? message
    : `unknown option ${unknown}; known: ${names.map((name) => `--${name}`).join(", ")}`;
}
