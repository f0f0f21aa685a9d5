import { describe, expect, it } from "vitest";
import { integer, jsonObject, names, parse, positive } from "../../src/cli/arguments";
import { nearest } from "../../src/common/nearest";
import { InvalidArgumentError } from "../../src/errors";

const options = { device: { type: "string" }, verbose: { type: "boolean", short: "v" } } as const;

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
    expect(parse("setup", ["--device=cpu", "-v"], options).values).toEqual({ device: "cpu", verbose: true });
    expect(parse("bundle", ["out.tar"], options, 1).positionals).toEqual(["out.tar"]);
  });

  it("names an unknown option and the nearest known one", () => {
    const near = refusal(() => parse("setup", ["--devise", "cpu"], options));
    expect(near.message).toBe("unknown option --devise");
    expect(near.hint).toContain("--device");
    expect(refusal(() => parse("setup", ["--zzzzzzzz"], options)).hint).toBe("run: tritonode setup --help");
    expect(refusal(() => parse("setup", ["-x"], options)).message).toBe("unknown option -x");
  });

  it("refuses a missing value and a word too many", () => {
    expect(refusal(() => parse("setup", ["--device"], options)).message).toContain("--device");
    expect(refusal(() => parse("setup", ["extra"], options)).message).toBe('unexpected argument "extra"');
  });
});

it("reads numbers and refuses everything else with the option's name", () => {
  expect(integer("--offset", "0", 0)).toBe(0);
  expect(positive("-t", "0.5")).toBe(0.5);
  for (const text of ["", " ", "1.5", "-1", "x", "1e999"]) {
    expect(refusal(() => integer("--offset", text, 0)).message).toContain("--offset");
  }
  for (const text of ["", "0", "-1", "x", "Infinity", "NaN"]) refusal(() => positive("-t", text));
  refusal(() => integer("--iterations", "0", 1));
});

it("reads a JSON object and nothing else", () => {
  expect(jsonObject("--p", '{"temperature": 0}')).toEqual({ temperature: 0 });
  for (const text of ["", "{", "[]", "null", "1"]) refusal(() => jsonObject("--p", text));
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
