import { quote } from "../common/shell";
import type { CommandSpec, OptionSpec, PathKind } from "./spec";

// Each script contains all words of the table, so that completing does not start Node.

type Option = OptionSpec & { readonly name: string };

const help: Option = { name: "help", type: "boolean", short: "h", help: "show this text" };

function optionsOf({ options }: CommandSpec): Option[] {
  return [...Object.entries(options).map(([name, option]) => ({ ...option, name })), help];
}

/** `-s` and `--long` */
function spellings({ name, short }: Option): string[] {
  return [...(short === undefined ? [] : [`-${short}`]), `--${name}`];
}

/** The beginning of the first sentence, short enough for a list of candidates. */
function brief(text: string): string {
  return text.split(/ \(|; |: |\. /)[0] ?? text;
}

/** The letters of bash's compgen for files and folders. */
const LETTERS = { file: "f", folder: "d" } as const;

/** Completions of `bash`: a function that is called with the words so far. */
export function bash(commands: readonly CommandSpec[]): string {
  const files = (kind: PathKind | undefined) => (kind === undefined ? "" : `_tritonode_files -${LETTERS[kind]}; `);
  const values = (option: Option) => {
    const act =
      option.choices === undefined
        ? files(option.takes)
        : `COMPREPLY=($(compgen -W ${quote(option.choices.join(" "))} -- "$current")); `;
    return `        ${spellings(option).join("|")}) ${act}return ;;`;
  };
  const cases = commands.map((spec) => {
    const options = optionsOf(spec);
    const valued = options.filter(({ type }) => type === "string").map(values);
    const last = spec.arguments.at(-1);
    const words = last?.choices === undefined ? "" : ` words=${quote(last.choices.join(" "))}`;
    const takes = last?.takes ?? spec.arguments[0]?.takes;
    return [
      `    ${spec.name})`,
      ...(valued.length === 0 ? [] : ['      case "$previous" in', ...valued, "      esac"]),
      `      options=${quote(options.flatMap(spellings).join(" "))}${words} takes=${takes ?? ""} ;;`,
    ].join("\n");
  });
  return `# Completions of tritonode for bash: source <(tritonode completion bash)
# Offers files, of which names with spaces are one word each.
_tritonode_files() {
  local IFS=$'\\n'
  compopt -o filenames
  COMPREPLY=($(compgen "$1" -- "$current"))
}
_tritonode() {
  local IFS=$' \\t\\n' current="\${COMP_WORDS[COMP_CWORD]}" previous="\${COMP_WORDS[COMP_CWORD - 1]}" options='' words='' takes=''
  COMPREPLY=()
  # bash splits words at "="; the value of --option=value is completed as the value of --option
  if [[ $current == = ]]; then current=''; elif [[ $previous == = ]]; then previous="\${COMP_WORDS[COMP_CWORD - 2]}"; fi
  if ((COMP_CWORD == 1)); then
    COMPREPLY=($(compgen -W ${quote([...commands.map(({ name }) => name), "help", "--help", "--version"].join(" "))} -- "$current"))
    return
  fi
  case "\${COMP_WORDS[1]}" in
    help) words=${quote(commands.map(({ name }) => name).join(" "))} ;;
${cases.join("\n")}
  esac
  if [[ $current == -* ]]; then
    COMPREPLY=($(compgen -W "$options" -- "$current"))
  elif [[ -n $words ]]; then
    COMPREPLY=($(compgen -W "$words" -- "$current"))
  elif [[ $takes == folder ]]; then
    _tritonode_files -d
  elif [[ $takes == file ]]; then
    _tritonode_files -f
  fi
}
complete -F _tritonode tritonode
`;
}

/** Completions of `zsh`: its own _arguments does the work. */
export function zsh(commands: readonly CommandSpec[]): string {
  // within a specification of _arguments, ":" and brackets have a meaning
  const described = (text: string) => text.replace(/[[\]:\\]/g, (sign) => `\\${sign}`);
  const action = (choices: readonly string[] | undefined, kind: PathKind | undefined) =>
    choices !== undefined
      ? `(${choices.join(" ")})`
      : { folder: "_files -/", file: "_files", none: " " }[kind ?? "none"];
  const option = (each: Option) => {
    const value =
      each.type === "boolean" ? "" : `:${described(each.value ?? each.name)}:${action(each.choices, each.takes)}`;
    const text = `[${described(brief(each.help))}]${value}`;
    const names = spellings(each);
    const once = each.multiple ? "*" : `(${names.join(" ")})`;
    return names.map((name) =>
      quote(`${once}${name}${each.type === "string" && name.startsWith("--") ? "=" : ""}${text}`),
    );
  };
  const positional = ({ name, repeated, choices, takes }: CommandSpec["arguments"][number]) =>
    quote(`${repeated ? "*" : ""}:${name}:${action(choices, takes)}`);
  const cases = commands.map((spec) =>
    [
      `    ${spec.name})`,
      `      _arguments -s \\`,
      [...optionsOf(spec).flatMap(option), ...spec.arguments.map(positional)]
        .map((line) => `        ${line}`)
        .join(" \\\n"),
      "      ;;",
    ].join("\n"),
  );
  const names = commands.map(({ name, summary }) => `    ${quote(`${name}:${summary}`)}`);
  return `#compdef tritonode
# Completions of tritonode for zsh: tritonode completion zsh > a folder of $fpath, as _tritonode
_tritonode() {
  local -a commands=(
${names.join("\n")}
  )
  if ((CURRENT == 2)); then
    _describe -t commands command commands
    return
  fi
  local command=\${words[2]}
  shift words
  ((CURRENT--))
  case $command in
    help) _describe -t commands command commands ;;
${cases.join("\n")}
  esac
}
if [[ $funcstack[1] == _tritonode ]]; then _tritonode "$@"; else compdef _tritonode tritonode; fi
`;
}

/** Completions of `fish`: a line for each word. */
export function fish(commands: readonly CommandSpec[]): string {
  const fishWord = (text: string) => `'${text.replace(/[\\']/g, (sign) => `\\${sign}`)}'`;
  const files = (kind: PathKind | undefined) =>
    kind === undefined ? "" : kind === "folder" ? " -a '(__fish_complete_directories)'" : " -F";
  const lines = commands.flatMap((spec) => {
    const within = `complete -c tritonode -n '__fish_seen_subcommand_from ${spec.name}'`;
    const options = optionsOf(spec).map(({ name, short, type, choices, takes, help: text }) => {
      const value =
        type === "boolean" ? "" : ` -x${choices === undefined ? files(takes) : ` -a '${choices.join(" ")}'`}`;
      // -x says that there are no files, -F that there are
      const exact = takes === "file" ? value.replace(" -x", " -r") : value;
      return `${within}${short === undefined ? "" : ` -s ${short}`} -l ${name}${exact} -d ${fishWord(brief(text))}`;
    });
    const positionals = spec.arguments.map(({ choices, takes }) =>
      choices === undefined ? `${within}${files(takes)}` : `${within} -a '${choices.join(" ")}'`,
    );
    return [...options, ...positionals.filter((line) => line !== within)];
  });
  const names = commands.map(
    ({ name, summary }) => `complete -c tritonode -n __fish_use_subcommand -a ${name} -d ${fishWord(summary)}`,
  );
  const known = commands.map(({ name }) => name).join(" ");
  return `# Completions of tritonode for fish: tritonode completion fish > ~/.config/fish/completions/tritonode.fish
complete -c tritonode -f
${names.join("\n")}
complete -c tritonode -n __fish_use_subcommand -a help -d 'say what a command takes'
complete -c tritonode -n '__fish_seen_subcommand_from help' -a '${known}'
${lines.join("\n")}
`;
}
