export { CallbackError } from "./common/callbacks";
export * from "./errors";
export * from "./model";
export * from "./model/openai";
export {
  type BundleOptions,
  bundle,
  type Check,
  type Device,
  doctor,
  findRuntime,
  PythonNotFoundError,
  type Runtime,
  SetupCancelledError,
  SetupError,
  type SetupOptions,
  type SetupProgress,
  setup,
} from "./runtime";
export * from "./server";
