export * from "./errors";
export * from "./openai";
export { findRuntime, PythonNotFoundError, type Runtime, SetupCancelledError, SetupError, setup } from "./runtime";
export * from "./server";
export * from "./vllm";
