import { checkNames } from "../../common/unknown";
import { RuntimeMissingError } from "../../errors";
import type { Device, Runtime } from "../runtime";
import { checkFiles, hasManifest, readManifest, toRuntime } from "./manifest";
import { checkDevice } from "./options";
import { defaultDirectory, namedDirectory, setupCommand } from "./paths";
import { stubPythonVersion, tritonOfDirectory } from "./triton";

/** Options of {@link findRuntime}. */
export interface FindRuntimeOptions {
  /** The runtime's own folder; default `$TRITONODE_RUNTIME_DIR`, else `<data dir>/tritonode/<version>-<device>`. */
  directory?: string | undefined;
  /** Default: the CUDA runtime if there is one, else the CPU runtime. */
  device?: Device | undefined;
  /** An installed Triton to use instead of the runtime's own, e.g. `/opt/tritonserver`. */
  triton?: string | undefined;
}

/**
 * Finds the runtime that `setup` made. It reads the manifest, checks that the parts exist, and runs nothing.
 *
 * ```ts
 * const { directory, vllmVersion } = await findRuntime();
 * ```
 *
 * @throws {@link RuntimeMissingError} with the exact command that makes the runtime: `ERR_RUNTIME_MISSING` if there is none,
 *   `ERR_RUNTIME_BROKEN` if a part is missing or does not fit, `ERR_RUNTIME_DEVICE` if it is for the other device.
 */
export async function findRuntime(options: FindRuntimeOptions = {}): Promise<Runtime> {
  // `doctor` passes its own options on.
  checkNames("findRuntime", options, ["directory", "device", "triton", "signal"]);
  const { device } = options;
  if (device !== undefined) checkDevice(device);
  const named = namedDirectory(options.directory);
  const directory = named ?? usual(device);
  let manifest: Awaited<ReturnType<typeof readManifest>>;
  try {
    manifest = await readManifest(directory, device);
  } catch (error) {
    if (named !== undefined || !(error instanceof RuntimeMissingError)) throw error;
    // in its usual place the command needs no --dir, and no --device unless one was asked for
    throw new RuntimeMissingError(error.message, {
      code: error.code,
      hint: `run: ${setupCommand({ device })}`,
      cause: error.cause,
    });
  }
  if (device !== undefined && manifest.device !== device) {
    throw new RuntimeMissingError(`the runtime in ${directory} is for ${manifest.device}, not ${device}`, {
      code: "ERR_RUNTIME_DEVICE",
      hint: `run: ${setupCommand({ device })}`,
    });
  }
  let runtime = toRuntime(directory, manifest);
  if (options.triton !== undefined) runtime = withTriton(runtime, options.triton);
  checkFiles(runtime);
  return runtime;
}

function usual(device: Device | undefined): string {
  if (device !== undefined) return defaultDirectory(device);
  const cuda = defaultDirectory("cuda");
  return hasManifest(cuda) ? cuda : defaultDirectory("cpu");
}

function withTriton(runtime: Runtime, directory: string): Runtime {
  const triton = tritonOfDirectory(directory);
  const version = stubPythonVersion(triton.stub);
  if (version !== undefined && version !== runtime.pythonVersion) {
    throw new RuntimeMissingError(
      `the stub of ${directory} is for Python ${version}, and the runtime in ${runtime.directory} has ${runtime.pythonVersion}`,
      { code: "ERR_RUNTIME_BROKEN", hint: `run: npx tritonode setup --triton ${directory} --dir NEW_FOLDER` },
    );
  }
  return { ...runtime, triton };
}
