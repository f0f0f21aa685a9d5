import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { CommandSpec } from "../../src/cli/spec";
import { commands } from "../../src/cli/table";

const page = join(__dirname, "../../docs/reference/command-line.md");

/** The table of a command's words and options, as the page has it. */
function table({ arguments: words, options }: CommandSpec): string {
  const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("<", "&lt;");
  const rows = [
    ...words.map(({ name, help }) => [name, help]),
    ...Object.entries(options).map(([name, { short, value, choices, help }]) => {
      const what = choices === undefined ? value : choices.join("|");
      return [`${short === undefined ? "" : `-${short}, `}--${name}${what === undefined ? "" : ` ${what}`}`, help];
    }),
  ];
  return [
    "| | |",
    "| --- | --- |",
    ...rows.map(([name = "", help = ""]) => `| \`${name.replaceAll("|", "\\|")}\` | ${cell(help)} |`),
  ].join("\n");
}

// `npx vitest run test/unit/cli-docs.test.ts -u` writes the tables anew.
it("the page of the command line has every command and option", async () => {
  const text = readFileSync(page, "utf8");
  const blocks = [...text.matchAll(/<!-- options of (\w+) -->/g)].map((match) => match[1]);
  expect([...blocks].sort()).toEqual(commands.map(({ name }) => name as string).sort());
  const written = commands.reduce<string>(
    (before, spec) =>
      before.replace(
        new RegExp(`(<!-- options of ${spec.name} -->\n)[^]*?(<!-- end -->)`),
        (_, begin: string, end: string) => `${begin}${table(spec)}\n${end}`,
      ),
    text,
  );
  await expect(written).toMatchFileSnapshot(page);
});
