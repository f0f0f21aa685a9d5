import { describe, expect, it } from "vitest";
import { integer, jsonObject, names, parse, positive } from "../../src/cli/arguments";
import { command } from "../../src/cli/spec";
import { nearest } from "../../src/common/nearest";
import { InvalidArgumentError } from "../../src/errors";

const spec = command({
  name: "setup",
  summary: "",
  description: [],
  arguments: [
    { name: "FROM", help: "what is read" },
    { name: "KIND", optional: true, choices: ["bash", "zsh"], help: "which" },
  ],
  options: {
    device: { type: "string", choices: ["cpu", "cuda"], help: "" },
    verbose: { type: "boolean", short: "v", help: "" },
  },
  examples: ["tritonode setup here"],
});

function refusal(action: () => unknown): InvalidArgumentError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidArgumentError);
    return error as InvalidArgumentError;
  }
  return expect.unreachable("it was taken");
}

describe("parse", () => {
  it("takes what is defined", () => {
    const { values, positionals } = parse(spec, ["--device=cpu", "-v", "here", "zsh"]);
    expect(values).toEqual({ device: "cpu", verbose: true });
    expect(positionals).toEqual(["here", "zsh"]);
    const repeated = command({ ...spec, arguments: [{ name: "FILE", repeated: true, help: "" }] });
    expect(parse(repeated, ["a", "b", "c"]).positionals).toEqual(["a", "b", "c"]);
  });

  it("names an unknown option and the nearest known one", () => {
    const near = refusal(() => parse(spec, ["--devise", "cpu"]));
    expect(near.message).toBe("unknown option --devise");
    expect(near.hint).toContain("--device");
    expect(refusal(() => parse(spec, ["--zzzzzzzz"])).hint).toBe("run: tritonode setup --help");
    expect(refusal(() => parse(spec, ["-x"])).message).toBe("unknown option -x");
  });

  it("refuses a missing value, and a word too many or too few", () => {
    expect(refusal(() => parse(spec, ["--device"])).message).toContain("--device");
    const dash = refusal(() => parse(spec, ["--device", "-4", "here"]));
    expect(dash.message).toBe('--device: the value "-4" begins with -');
    expect(dash.hint).toContain("write: --device=-4;");
    expect(refusal(() => parse(spec, ["here", "zsh", "extra"])).message).toBe('unexpected argument "extra"');
    const missing = refusal(() => parse(spec, []));
    expect(missing.message).toBe("setup needs FROM: what is read");
    expect(missing.hint).toBe("for example: tritonode setup here");
  });

  it("refuses a value that is not one of those there are", () => {
    const option = refusal(() => parse(spec, ["--device", "tpu", "here"]));
    expect([option.message, option.hint]).toEqual(['--device "tpu" is not known', "use cpu or cuda"]);
    const word = refusal(() => parse(spec, ["here", "zhs"]));
    expect([word.message, word.hint]).toEqual(['KIND "zhs" is not known', "did you mean zsh?"]);
    const choices = { ...spec, arguments: [{ name: "KIND", choices: ["bash", "zsh", "fish"], help: "which" }] };
    expect(refusal(() => parse(choices, ["powershell"])).hint).toBe("use bash, zsh or fish");
  });
});

it("reads numbers and refuses everything else with the option's name", () => {
  expect(integer("--offset", "0", 0)).toBe(0);
  expect(positive("-t", "0.5")).toBe(0.5);
  for (const text of ["", " ", "1.5", "-1", "x", "1e999"]) {
    expect(refusal(() => integer("--offset", text, 0)).message).toContain("--offset");
  }
  for (const text of ["", "0", "-1", "x", "Infinity", "NaN"]) {
    expect(refusal(() => positive("-t", text)).hint).toContain("for example: -t ");
  }
  refusal(() => integer("--iterations", "0", 1));
});

it("reads a JSON object and nothing else", () => {
  expect(jsonObject("--p", '{"temperature": 0}')).toEqual({ temperature: 0 });
  for (const text of ["", "{", "[]", "null", "1"])
    expect(refusal(() => jsonObject("--p", text)).hint).toContain("--p '{");
});

it("splits names", () => {
  expect(names(["test,demo", "x"])).toEqual(["test", "demo", "x"]);
  expect(names(undefined)).toEqual([]);
});

it("finds the nearest word, if one is near", () => {
  expect(nearest("stup", ["setup", "doctor"])).toBe("setup");
  expect(nearest("dcotor", ["setup", "doctor"])).toBe("doctor");
  expect(nearest("teapot", ["setup", "doctor"])).toBeUndefined();
});
