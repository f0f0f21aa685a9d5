import { describe } from "../common/describe";
import {
  EngineDiedError,
  InvalidArgumentError,
  RequestCancelledError,
  RuntimeMissingError,
  TritonodeError,
  TritonServerError,
} from "../errors";

const tritonCodes = new Set([
  "UNKNOWN",
  "INTERNAL",
  "NOT_FOUND",
  "INVALID_ARG",
  "UNAVAILABLE",
  "UNSUPPORTED",
  "ALREADY_EXISTS",
  "CANCELLED",
]);

/**
 * Converts an error of the addon to a typed error. Its `code` is the name of a `TRITONSERVER_Error_Code`
 * (tritonserver.h) or one of the core's own (`native/common/status.h`): LIBRARY, SYSTEM, STATE, OPTION, HOST, CHILD.
 */
export function fromNative(error: unknown): Error {
  if (error instanceof TritonodeError) return error;
  if (!(error instanceof Error)) return new TritonodeError("ERR_INTERNAL", describe(error));
  const code = (error as { code?: unknown }).code;
  if (typeof code === "string" && tritonCodes.has(code)) return fromTriton(code, error.message);
  if (code === "LIBRARY") return new RuntimeMissingError(error.message, { code: "ERR_RUNTIME_BROKEN", cause: error });
  if (code === "SYSTEM") return new TritonodeError("ERR_SYSTEM", error.message, { cause: error });
  if (code === "OPTION") return new InvalidArgumentError(error.message, { cause: error });
  if (code === "HOST") return new TritonodeError("ERR_HOST", error.message, { cause: error, hint: hostHint });
  if (code === "CHILD") {
    return new RuntimeMissingError(`a Python child of this runtime ended while it imported vLLM: ${error.message}`, {
      code: "ERR_RUNTIME_BROKEN",
      cause: error,
      hint: "run: npx tritonode doctor",
    });
  }
  if (code === "STATE") return new TritonodeError("ERR_STATE", error.message, { cause: error });
  if (typeof code === "string" && "syscall" in error) return fromSystem(code, error);
  if (error instanceof TypeError) return new InvalidArgumentError(error.message, { cause: error });
  return error;
}

const hostHint = "start Node without it in LD_PRELOAD (and /etc/ld.so.preload); MALLOC_ARENA_MAX=2 bounds glibc's own";

const systemHints: Readonly<Record<string, string>> = {
  ENOSPC: "free space there, or set TMPDIR to another disk",
  EDQUOT: "free space there, or set TMPDIR to another disk",
  EROFS: "set TMPDIR to a folder that can be written",
  EACCES: "set TMPDIR to a folder that can be written",
  EMFILE: "raise the limit of open files (ulimit -n) or close what is not needed",
  ENFILE: "raise the system's limit of open files (fs.file-max)",
};

/** The error of a file operation of Node. */
function fromSystem(code: string, error: Error): TritonodeError {
  return new TritonodeError("ERR_SYSTEM", error.message, { cause: error, hint: systemHints[code] });
}

/**
 * Triton's messages for a request whose child is dead (python_backend, SendMessageToStub; native/python_backend/dead_owner.h).
 */
const childIsDead = /^(?:Failed to obtain the health mutex|Stub process is not healthy)\.?$/;

/** The error of a response of `model`. */
export function fromResponse(model: string, code: string, message: string): TritonodeError {
  const error = fromTriton(code, message);
  if (code === "CANCELLED") return new RequestCancelledError(message, { cause: error });
  if (!childIsDead.test(message)) return error;
  return new EngineDiedError(`the Python child of model '${model}' is gone`, {
    cause: error,
    hint: "another one may be starting: its last lines in the log say why; send the request again, or load the model again",
  });
}

/** The error of a call of the C API. */
export function fromTriton(code: string, message: string): TritonServerError {
  return new TritonServerError(code, message);
}
