import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { findRuntime } from "../../src/runtime/find/find";

// native/triton/api.h declares what the addon uses of Triton's C API, because there is no header on a user's machine. A
// wrong type there would be found by nobody but a crash. The list beside this test says what Triton's own header declares:
// each function's result and arguments, without a word of its text.

interface Api {
  release: string;
  functions: Record<string, string[]>;
  callbacks: Record<string, string[]>;
  enums: Record<string, Record<string, number>>;
}

const root = join(__dirname, "../..");
const theirs = JSON.parse(readFileSync(join(root, "test/unit/triton-api-24.10.json"), "utf8")) as Api;
const header = ["triton/api.h", "common/data_type.h"]
  .map((file) => readFileSync(join(root, "native", file), "utf8"))
  .join("\n")
  .replaceAll(/\/\/.*/g, "")
  .replaceAll("\\\n", "\n");

/** Our names for their types. An enumeration without negative values is an unsigned int in C. */
const names: Readonly<Record<string, string>> = {
  DataType: "TRITONSERVER_DataType",
  MemoryType: "TRITONSERVER_MemoryType",
  ParameterType: "TRITONSERVER_ParameterType",
  ModelControl: "TRITONSERVER_ModelControlMode",
  MetricFormat: "TRITONSERVER_MetricFormat",
  LogFormat: "TRITONSERVER_LogFormat",
  AllocateFunction: "TRITONSERVER_ResponseAllocatorAllocFn_t",
  ReleaseBufferFunction: "TRITONSERVER_ResponseAllocatorReleaseFn_t",
  StartFunction: "TRITONSERVER_ResponseAllocatorStartFn_t",
  RequestReleaseFunction: "TRITONSERVER_InferenceRequestReleaseFn_t",
  ResponseCompleteFunction: "TRITONSERVER_InferenceResponseCompleteFn_t",
};

/** Types of the same size and kind have one name, and `const` of what is passed by value does not count. */
function canonical(type: string): string {
  const [, base = "", pointers = ""] = /^(.*?)(\**)$/.exec(type.replaceAll(/\s*\*\s*/g, "*").trim()) ?? [];
  const plain = pointers === "" ? base.replace(/^const /, "") : base;
  const name = names[plain] ?? plain;
  const same: Readonly<Record<string, string>> = { TRITONSERVER_Error_Code: "uint32_t", "unsigned int": "uint32_t" };
  return (same[name] ?? name) + pointers;
}

/** `const char* name` without the name; `(TRITONSERVER_Server*, bool)` has none. */
function typeOf(parameter: string): string {
  const text = parameter
    .trim()
    .replace("unsigned int", "uint32_t")
    .replaceAll(/\s*\*\s*/g, "* ")
    .replaceAll("* *", "**")
    .trim();
  const named = /^((?:const )?\w+\**) +\w+$/.exec(text);
  return canonical(named?.[1] ?? text);
}

function signature(result: string, parameters: string): string[] {
  const list = parameters.split(",").filter((parameter) => parameter.trim() !== "");
  return [canonical(result), ...list.map(typeOf)];
}

const functions = new Map(
  [...header.matchAll(/\bX\((\w+),\s*([\w *]+?),\s*\(([^)]*)\)\)/g)].map(
    ([, name = "", result = "", parameters = ""]) => [name, signature(result, parameters)] as const,
  ),
);
const callbacks = new Map(
  [...header.matchAll(/using (\w+) = ([\w *]+?)\s*\(\*\)\(([^)]*)\)/g)].map(
    ([, name = "", result = "", parameters = ""]) => [names[name] ?? name, signature(result, parameters)] as const,
  ),
);
const enums = new Map(
  [...header.matchAll(/enum class (\w+) : uint32_t \{([^}]*)\}/g)].map(
    ([, name = "", values = ""]) => [names[name] ?? name, values.split(",").map((value) => value.trim())] as const,
  ),
);

describe("the function table", () => {
  it("is read whole", () => {
    const marks = header.match(/\bX\(\w+,/g);
    expect(functions.size).toBe(marks?.length);
    expect(functions.size).toBeGreaterThan(80);
    expect(callbacks.size).toBe(5);
    expect(enums.size).toBe(6);
  });

  it.each([...functions.keys()])("%s is declared as in Triton's header", (name) => {
    expect(theirs.functions).toHaveProperty(name);
    expect(functions.get(name)).toEqual(theirs.functions[name]?.map(canonical));
  });

  it.each([...callbacks.keys()])("%s is declared as in Triton's header", (name) => {
    expect(callbacks.get(name)).toEqual(theirs.callbacks[name]?.map(canonical));
  });

  it.each([...enums.keys()])("%s has the header's numbers", (name) => {
    const plain = (text: string) => text.replaceAll("_", "").toLowerCase();
    for (const [number, value] of (enums.get(name) ?? []).entries()) {
      const found = Object.entries(theirs.enums[name] ?? {}).find(([, theirNumber]) => theirNumber === number);
      expect(found, `${name} ${number}`).toBeDefined();
      expect(plain(found?.[0] ?? "")).toMatch(new RegExp(`${plain(value.slice(1))}$`));
    }
  });

  it("names functions that the installed libtritonserver has", async () => {
    const { triton } = await findRuntime();
    const symbols = new Set(
      execFileSync("nm", ["-D", "--defined-only", triton.library], { encoding: "utf8", maxBuffer: 2 ** 28 }).match(
        /\bTRITONSERVER_\w+/g,
      ),
    );
    const optional = header.slice(header.indexOf("TRITONODE_OPTIONAL_FUNCTIONS"));
    const missing = [...functions.keys()].filter((name) => !symbols.has(`TRITONSERVER_${name}`));
    expect(missing.filter((name) => !optional.includes(`X(${name},`))).toEqual([]);
  });
});
