/**
 * Models with their adapters ({@link VllmModel}), any other model of Triton ({@link TritonServer}), the runtime ({@link setup},
 * {@link doctor}), and the errors.
 *
 * @module tritonode
 */

export { CallbackError } from "./common/callbacks";
export * from "./errors";
export * from "./model";
export * from "./model/openai";
export {
  type BundleOptions,
  bundle,
  type Check,
  type Device,
  type DoctorOptions,
  doctor,
  type FindRuntimeOptions,
  findRuntime,
  type Installer,
  type OnSetupProgress,
  PythonNotFoundError,
  type Runtime,
  SetupCancelledError,
  SetupError,
  type SetupOptions,
  type SetupPhase,
  type SetupPlan,
  type SetupProgress,
  setup,
  type TritonFiles,
} from "./runtime";
export * from "./server";
