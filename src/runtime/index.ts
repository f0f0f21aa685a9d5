export type { Check } from "./check/check";
export { type DoctorOptions, doctor } from "./check/doctor";
export { type Repair, type RepairOptions, repairsFor } from "./check/repair";
export { PythonNotFoundError, SetupCancelledError, SetupError } from "./errors";
export { type FindRuntimeOptions, findRuntime } from "./find/find";
export { requireGpu } from "./find/gpu";
export { type BundleOptions, bundle } from "./install/bundle";
export type { Installer } from "./install/installer";
export { planLines, type SetupPlan } from "./install/plan";
export type { OnSetupProgress, SetupPhase, SetupProgress } from "./install/progress";
export {
  diskUsage,
  type InstalledRuntime,
  installedRuntimes,
  type Removed,
  remove,
  requireRemovable,
} from "./install/remove";
export { planSetup, type SetupOptions, setup } from "./install/setup";
export type { Device, Runtime, TritonFiles } from "./runtime";
