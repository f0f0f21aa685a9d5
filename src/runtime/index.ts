export { type BundleOptions, bundle } from "./bundle";
export type { Check } from "./check";
export { type DoctorOptions, doctor } from "./doctor";
export { PythonNotFoundError, SetupCancelledError, SetupError } from "./errors";
export { type FindRuntimeOptions, findRuntime } from "./find";
export { requireGpu } from "./gpu";
export type { OnSetupProgress, SetupPhase, SetupProgress } from "./progress";
export type { Device, Runtime, TritonFiles } from "./runtime";
export { type SetupOptions, setup } from "./setup";
