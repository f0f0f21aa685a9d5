import { describe, expect, it } from "vitest";
import { AddonLoadError } from "../../src";
import { loadAddon } from "../../src/native/binding";
import { EventReader, type EventTable } from "../../src/native/events";

function read(table: EventTable, batch: unknown[]): unknown[] {
  const seen: unknown[] = [];
  const keep = (kind: string) => (event: unknown) => void seen.push([kind, event]);
  new EventReader(table).read(batch, { response: keep("response"), log: keep("log"), child: keep("child") });
  return seen;
}

describe("the addon's events", () => {
  it("have their fields where the addon's own table says", () => {
    const { eventTable } = loadAddon();
    expect(() => new EventReader(eventTable)).not.toThrow();
    // The same table with every row turned round, and a field that nobody reads.
    const turned: EventTable = {
      events: [...eventTable.events].reverse().map(([kind, ...fields]) => [kind, "more", ...fields.reverse()] as const),
      output: [...eventTable.output].reverse(),
    };
    const number = (kind: string) => turned.events.findIndex(([name]) => name === kind);
    const row = (kind: string, fields: Record<string, unknown>) => [
      number(kind),
      ...(turned.events[number(kind)] ?? []).slice(1).map((name) => fields[name]),
    ];
    const output = { name: "out", datatype: 11, shape: [1], data: Float32Array.of(1) };
    const response = {
      call: 7,
      last: true,
      empty: false,
      code: undefined,
      message: undefined,
      model: "m",
      version: 1,
      parameters: undefined,
    };
    const child = { pid: 5, running: true, arguments: "a\nb", asked: false };
    const flat = turned.output.map((name) => output[name as keyof typeof output]);
    expect(
      read(turned, [
        ...row("log", { text: "a line" }),
        ...row("response", { ...response, outputs: flat }),
        ...row("child", child),
      ]),
    ).toEqual([
      ["log", "a line"],
      ["response", { ...response, outputs: [output] }],
      ["child", child],
    ]);
  });

  it("are refused where a field is missing: the addon was built from other sources", () => {
    const { events, output } = loadAddon().eventTable;
    for (const table of [
      { events, output: output.filter((name) => name !== "shape") },
      { events: events.filter(([kind]) => kind !== "child"), output },
      {
        events: events.map(([kind, ...fields]) => [kind, ...fields.filter((name) => name !== "call")] as const),
        output,
      },
    ]) {
      expect(() => new EventReader(table)).toThrow(AddonLoadError);
    }
  });
});
