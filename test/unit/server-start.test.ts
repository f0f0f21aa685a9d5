import { existsSync } from "node:fs";
import { expect, it } from "vitest";
import { TritonServer } from "../../src/server";
import { collect, command, commandModel, load, startOptions } from "../support/triton";

it("a start that fails leaves the server to whoever joined it meanwhile", async () => {
  const options = await startOptions();
  // The second start waits inside the addon for the first, and is in by the time that the first one's repository fails.
  const [failed, joined] = await Promise.allSettled([
    TritonServer.start({ ...options, modelRepositories: ["/nowhere"] }),
    TritonServer.start(options),
  ]);
  expect(failed).toMatchObject({ status: "rejected", reason: { code: "ERR_INVALID_ARGUMENT" } });
  if (joined.status === "rejected") throw joined.reason;
  const server = joined.value;
  expect(existsSync(server.privateDirectory)).toBe(true);
  await load(server, "command", commandModel);
  expect(await collect(server.infer(command({}, ["served"])))).toEqual([["served"]]);
  await server.stop();
  expect(existsSync(server.privateDirectory)).toBe(false);
});
