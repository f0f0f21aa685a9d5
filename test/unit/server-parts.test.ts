import { execFileSync, spawn } from "node:child_process";
import {
  existsSync,
  lutimesSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { InvalidArgumentError, RequestCancelledError } from "../../src/errors";
import { loadAddon } from "../../src/native/binding";
import { type Logger, logTo } from "../../src/server/logger";
import { toNativeRequest } from "../../src/server/request";
import { Responses, StreamState } from "../../src/server/stream";
import { fromNative } from "../../src/transport/failure";
import { sweep } from "../../src/transport/sweep";
import { type InputTensor, toNativeTensor } from "../../src/transport/tensors";
import { Workspace } from "../../src/transport/workspace";

const runtime = {
  directory: "/r",
  device: "cpu" as const,
  python: "/r/venv/bin/python3",
  pythonVersion: "3.11",
  libpythonDirectory: "/r/it's lib",
  vllmVersion: "0",
  packages: {},
};

const cleanup: string[] = [];
function temporary(): string {
  const directory = mkdtempSync(join(tmpdir(), "tritonode test-"));
  cleanup.push(directory);
  return directory;
}
afterEach(() => {
  for (const path of cleanup.splice(0)) rmSync(path, { recursive: true, force: true });
});

describe("tensors", () => {
  it("fills in the shape and converts plain arrays", () => {
    expect(toNativeTensor({ name: "x", datatype: "FP32", data: [1, 2.5] })).toEqual({
      name: "x",
      datatype: 11,
      shape: [2],
      data: Float32Array.of(1, 2.5),
    });
    expect(toNativeTensor({ name: "x", datatype: "INT64", shape: [1, 2], data: [1, 2n] as never })).toMatchObject({
      shape: [1, 2],
      data: BigInt64Array.of(1n, 2n),
    });
  });

  it.each<[string, unknown]>([
    ["no name", { datatype: "FP32", data: [] }],
    ["an unknown datatype", { name: "x", datatype: "FLOAT", data: [1] }],
    ["a shape that does not fit", { name: "x", datatype: "FP32", shape: [3], data: [1] }],
    ["a negative dimension", { name: "x", datatype: "FP32", shape: [-1], data: [1] }],
    ["text for numbers", { name: "x", datatype: "INT32", data: ["1"] }],
    ["numbers for text", { name: "x", datatype: "BYTES", data: [1] }],
    ["numbers for bits", { name: "x", datatype: "FP16", data: [1.5] }],
    ["fractions for integers of 64 bits", { name: "x", datatype: "INT64", data: [0.5] }],
    ["another typed array", { name: "x", datatype: "FP32", data: new Float64Array(1) }],
  ])("refuses %s", (_, tensor) => {
    expect(() => toNativeTensor(tensor as InputTensor)).toThrow(InvalidArgumentError);
  });

  const any = () =>
    fc.anything({ withBigInt: true, withNullPrototype: true, withTypedArray: true, withSparseArray: true });
  const tensor = () =>
    fc.record(
      {
        name: fc.oneof(fc.string(), any()),
        datatype: fc.oneof(fc.constantFrom("BYTES", "BOOL", "FP16", "INT64", "FP32"), any()),
        shape: fc.oneof(fc.array(fc.oneof(fc.nat(3), any())), any()),
        data: fc.oneof(fc.array(fc.oneof(fc.string(), fc.double(), fc.boolean(), any())), any()),
      },
      { requiredKeys: [] },
    );

  it("answers any value with a request or a typed error", () => {
    const fields = [
      "version",
      "outputs",
      "parameters",
      "priority",
      "sequence",
      "deadline",
      "signal",
      "maxQueuedResponses",
    ];
    const request = fc.record(
      {
        model: fc.oneof(fc.string(), any()),
        inputs: fc.oneof(fc.array(fc.oneof(tensor(), any())), any()),
        ...Object.fromEntries([...fields, "onResponse", "merge"].map((name) => [name, any()])),
      },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.oneof(request, any()), fc.oneof(fc.string(), any()), (value, id) => {
        try {
          toNativeRequest(value as never, id as never);
        } catch (error) {
          expect(error).toBeInstanceOf(InvalidArgumentError);
        }
      }),
      {
        numRuns: 2_000,
        examples: [[{ model: "m", inputs: [], deadline: { toString: false } }, "id"]],
      },
    );
  });

  it.each([
    { model: "a\0b", inputs: [] },
    { model: "a", inputs: [{ name: "x\0", datatype: "FP32", data: [] }] },
    { model: "a", inputs: [], parameters: { x: "a\0b" } },
  ])("refuses what C strings and 64 bits can't hold: %j", (request) => {
    expect(() => toNativeRequest(request as never, "id")).toThrow(InvalidArgumentError);
  });
});

describe("a request parameter", () => {
  it("has 64 bits", () => {
    const request = (x: bigint) => ({ model: "m", inputs: [], parameters: { x } });
    expect(toNativeRequest(request(-(2n ** 63n)), "id").parameters).toEqual(["x", -(2n ** 63n)]);
    expect(() => toNativeRequest(request(2n ** 63n), "id")).toThrow(InvalidArgumentError);
  });
});

describe("a stream", () => {
  const options = { id: "1", model: "m", maxQueuedResponses: 3 };
  const response = { model: "m", version: 1, id: "1", parameters: {}, outputs: {}, final: false };

  it("throws an error once and is done then", async () => {
    const state = new StreamState(options);
    const stream = new Responses(state, false);
    state.begin(() => {});
    const waiting = [stream.next(), stream.next()];
    state.onFailure("INTERNAL", "no", false);
    expect(await Promise.allSettled(waiting)).toMatchObject([{ status: "rejected" }, { value: { done: true } }]);
    expect(await stream.next()).toEqual({ done: true, value: undefined });
    await expect(stream.finished).rejects.toThrow("no");
  });

  it("cancels once, and only while it runs", async () => {
    let cancels = 0;
    const state = new StreamState(options);
    state.begin(() => cancels++);
    const stream = new Responses(state, false);
    state.onResponse(response, false);
    stream.cancel();
    stream.cancel(new Error("second"));
    await stream.return();
    state.onResponse(response, true);
    expect(cancels).toBe(1);
    await expect(stream.finished).rejects.toBeInstanceOf(RequestCancelledError);

    const ended = new StreamState(options);
    ended.begin(() => cancels++);
    ended.onResponse(response, true);
    ended.fail(new Error("late"));
    expect(cancels).toBe(1);
    expect(await new Responses(ended, false).next()).toEqual({ done: false, value: response });
  });
});

describe("errors of the addon", () => {
  it.each([
    ["NOT_FOUND", "ERR_TRITON_NOT_FOUND"],
    ["CANCELLED", "ERR_TRITON_CANCELLED"],
    ["LIBRARY", "ERR_RUNTIME_BROKEN"],
    ["SYSTEM", "ERR_SYSTEM"],
    ["STATE", "ERR_STATE"],
  ])("%s becomes %s", (code, expected) => {
    expect(fromNative(Object.assign(new Error("text"), { code }))).toMatchObject({ code: expected, message: "text" });
  });
});

describe("the log", () => {
  it("keeps the level of each line", () => {
    const seen: string[] = [];
    const to = (level: string) => (message: string) => void seen.push(`${level}: ${message}`);
    const logger: Logger = { debug: to("debug"), info: to("info"), warn: to("warn"), error: to("error") };
    for (const line of [
      "I1124 21:52:01.123456 4711 server.cc:604] up",
      'E1124 21:52:01.123456 4711 model.cc:1] "quoted"',
      "WARNING 11-24 21:52:01 [arg_utils.py:1] careful",
      "plain",
      "",
    ]) {
      logTo(logger, line);
    }
    expect(seen).toEqual([
      "info: server.cc:604 up",
      "error: model.cc:1 quoted",
      "warn: WARNING 11-24 21:52:01 [arg_utils.py:1] careful",
      "info: plain",
    ]);
  });
});

describe("the private directory", () => {
  function make(environment: Record<string, string | undefined>): { workspace: Workspace; stub: string } {
    const parts = temporary();
    writeFileSync(join(parts, "libtriton_python.so"), "");
    const stub = join(parts, "real stub");
    writeFileSync(
      stub,
      '#!/bin/sh\nenv -0 >"$OUT"; printf "%s\\n" "$@" >"$OUT.arguments"; ls -l /proc/$$/fd >"$OUT.fds"\n',
      {
        mode: 0o700,
      },
    );
    const triton = {
      version: "",
      library: "",
      dependencyDirectory: undefined,
      pythonBackend: parts,
      stub,
      server: undefined,
    };
    const workspace = Workspace.create({ runtime: { ...runtime, triton }, backends: {}, environment });
    cleanup.push(workspace.directory);
    return { workspace, stub: join(workspace.backends, "python/triton_python_backend_stub") };
  }

  it("gives the child exactly the environment that was asked for", () => {
    const out = join(temporary(), "out");
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), (text) => {
        // What the operating system can't carry: NUL, and halves of surrogate pairs.
        const value = Buffer.from(text.replaceAll("\0", "")).toString();
        const { workspace, stub } = make({ VALUE: value, HOME: undefined });
        execFileSync("mkfifo", [join(workspace.directory, "log")]);
        execFileSync(stub, ["/x/m/1/model.py", "b c"], { env: { ...process.env, OUT: out, PYTHONPATH: "/no" } });
        const environment = readFileSync(out, "utf8").split("\0");
        expect(environment).toContain(`VALUE=${value}`);
        expect(environment).toContain(`TRITONODE_PRIVATE_DIR=${workspace.directory}`);
        expect(environment.some((line) => /^(HOME|PYTHONPATH)=/.test(line))).toBe(false);
        expect(environment.find((line) => line.startsWith("LD_LIBRARY_PATH="))).toMatch(
          /^LD_LIBRARY_PATH=\/r\/it's lib/,
        );
        expect(environment.find((line) => line.startsWith("PATH="))).toMatch(/^PATH=\/r\/venv\/bin:/);
        expect(readFileSync(`${out}.arguments`, "utf8")).toBe("/x/m/1/model.py\nb c\n");
        workspace.remove();
      }),
      { numRuns: 20 },
    );
  });

  it("is private, and answers Triton's trial run without a stub", () => {
    const { workspace, stub } = make({});
    expect(statSync(workspace.directory).mode & 0o777).toBe(0o700);
    expect(() => execFileSync(stub)).toThrow(expect.objectContaining({ status: 1 }));
    expect(() => make({ "A-B": "x" })).toThrow(InvalidArgumentError);
    expect(() => make({ A: "\0" })).toThrow(InvalidArgumentError);
  });

  it("gives repositories paths that bash leaves alone, and keeps files inside their model", () => {
    const { workspace } = make({});
    const repository = join(temporary(), "with spaces; $(and more)");
    mkdirSync(repository);
    const path = workspace.repository(repository);
    expect(path).toMatch(/^[\w/.-]+$/);
    expect(workspace.repository(repository)).toBe(path);
    expect(() => workspace.repository(join(repository, "none"))).toThrow(InvalidArgumentError);
    expect(() => workspace.writeModel("m", { "../x": "" })).toThrow(InvalidArgumentError);
    workspace.writeModel("m", { "1/model.py": "pass" });
    expect(readFileSync(join(workspace.ownRepository, "m/1/model.py"), "utf8")).toBe("pass");
  });
});

describe("the sweep", () => {
  it("removes what dead processes left and nothing else", async () => {
    const [directory, shm] = [temporary(), temporary()];
    const dead = Number(execFileSync("sh", ["-c", "echo $$"], { encoding: "utf8" }));
    const mine = [
      join(directory, `tritonode-${process.pid}-abcdef`),
      join(directory, "tritonode-setup-abcdef"),
      join(directory, "other"),
      // In another PID namespace the owner has another pid.
      join(directory, `tritonode-${dead}-locked`),
      join(directory, `tritonode-${dead}-starts`),
      join(shm, `tritonode_${process.pid}_0a_x`),
      join(shm, `tritonode_${dead}_0b_x`),
      join(shm, "triton_python_backend_shm_region_x"),
    ];
    const left = [
      join(directory, `tritonode-${dead}-abcdef`),
      join(directory, `tritonode-${dead}-linked`),
      join(directory, `tritonode-${process.pid}-reused`),
      join(shm, `tritonode_${dead}_0a_x`),
      join(shm, `sem.tritonode_${dead}_0a_x`),
      join(shm, `tritonode_${dead}_0a_owner`),
    ];
    const target = temporary();
    writeFileSync(join(target, "kept"), "");
    for (const path of [...mine, ...left]) {
      if (path !== left[1] && !path.endsWith("owner")) mkdirSync(path);
    }
    symlinkSync(target, left[1] as string);
    lutimesSync(left[1] as string, 0, 0);
    const locked = [join(mine[3] as string, "owner"), join(shm, `tritonode_${dead}_0b_owner`)];
    const owners = locked.map((path) => {
      writeFileSync(path, "");
      return spawn("flock", [path, "sh", "-c", "echo; exec sleep 60"], { stdio: ["ignore", "pipe", "ignore"] });
    });
    await Promise.all(owners.map((owner) => new Promise((resolve) => owner.stdout.once("data", resolve))));
    for (const path of [left[0], left[2]]) writeFileSync(join(path as string, "owner"), "");
    writeFileSync(left[5] as string, "");

    // What Triton made elsewhere for the dead one; a link of another name leads nowhere that is ours.
    const [elsewhere, notOurs] = [join(temporary(), "python_env_a1B2c3"), temporary()];
    mkdirSync(elsewhere);
    symlinkSync(elsewhere, join(left[0] as string, "python_env_a1B2c3"));
    symlinkSync(notOurs, join(left[0] as string, "python_env_d4E5f6"));

    // A child that outlived its host, and a stranger with a pid that is listed by accident.
    mkdirSync(join(left[0] as string, "children"));
    const orphan = spawn("sleep", ["60"], { env: { TRITONODE_PRIVATE_DIR: left[0], PATH: process.env.PATH } });
    const stranger = spawn("sleep", ["60"]);
    for (const child of [orphan, stranger]) {
      writeFileSync(join(left[0] as string, "children", `${child.pid}`), "");
    }
    const ended = new Promise((resolve) => orphan.once("exit", resolve));
    expect(sweep(loadAddon(), directory, shm).sort()).toEqual([...left].sort());
    for (const path of mine) expect(existsSync(path)).toBe(true);
    for (const path of left) expect(existsSync(path)).toBe(false);
    expect(existsSync(join(target, "kept"))).toBe(true);
    expect([existsSync(elsewhere), existsSync(notOurs)]).toEqual([false, true]);
    await ended;
    expect(orphan.signalCode).toBe("SIGKILL");
    expect(stranger.exitCode ?? stranger.signalCode).toBeNull();
    stranger.kill();
    for (const owner of owners) owner.kill();
    expect(sweep(loadAddon(), "/nowhere", "/nowhere")).toEqual([]);
  });
});
