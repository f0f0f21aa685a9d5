// One step in a process of its own: its name in argv, the configuration on stdin, its figures as JSON on descriptor 3.
// It ends, with all that it has started, when descriptor 4 closes: its parent is gone then, and a step that went on would
// hold the GPU while the next run measures.
import { readFileSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import { doctor } from "./steps/doctor.mjs";
import { engineProcess, engineServer, engineThread } from "./steps/engines.mjs";
import { exact } from "./steps/exact.mjs";
import { load } from "./steps/load.mjs";
import { releaseChild, releaseDispose, releaseHost } from "./steps/release.mjs";
import { streams } from "./steps/streams.mjs";

const steps = {
  doctor,
  "load-eager": (config) => load(config, true),
  "load-graphs": (config) => load(config, false),
  "exact-float32": (config) => exact(config, "float32"),
  "exact-bfloat16": (config) => exact(config, "bfloat16"),
  streams,
  "release-dispose": releaseDispose,
  "release-host": releaseHost,
  "release-child": releaseChild,
  "engine-thread": engineThread,
  "engine-process": engineProcess,
  "engine-server": engineServer,
};

new Socket({ fd: 4 })
  .on("close", () => process.kill(-process.pid, "SIGKILL"))
  .resume()
  .unref();

const config = JSON.parse(readFileSync(0, "utf8"));
let result;
try {
  result = await steps[process.argv[2]](config);
} catch (error) {
  // What was found before it failed is in `figures`.
  result = { ...error.figures, failure: `${error.code === undefined ? "" : `${error.code}: `}${error.message}` };
}
writeSync(3, JSON.stringify(result));
process.exit(0);
