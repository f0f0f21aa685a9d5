/** The page with a section for every code: package.json's `homepage`, and docs/errors.md in the package itself. */
const page = "https://github.com/tritonode/tritonode/blob/main/docs/errors.md";

/**
 * Every error that tritonode throws or rejects with.
 *
 * `code` is stable and meant for programs; `message` names the offending value; `hint` says what to do about it;
 * `cause` is the underlying error (Triton's own, a system error); `docs` is the link to the code's section in
 * docs/errors.md, a file that is in the package too.
 */
export class TritonodeError extends Error {
  /** Stable, for programs, e.g. `"ERR_MODEL_LOAD"`. docs/errors.md has them all. */
  readonly code: string;
  /** What to do about it; undefined if there is no single thing. */
  readonly hint: string | undefined;
  /** The address of the code's section in docs/errors.md. */
  readonly docs: string;

  constructor(code: string, message: string, options: { hint?: string | undefined; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
    this.docs = `${page}#${code.toLowerCase()}`;
  }

  /** The class's name, e.g. `"ModelLoadError"`. */
  override get name(): string {
    return this.constructor.name;
  }
}

/** A caller's argument is not usable: wrong type, out of range, unknown option. */
export class InvalidArgumentError extends TritonodeError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown; code?: string }) {
    super(options?.code ?? "ERR_INVALID_ARGUMENT", message, options);
  }
}

/** There is no model of this name: no folder, no GGUF file, and no downloaded model of the Hugging Face Hub. */
export class ModelNotFoundError extends InvalidArgumentError {
  /** The path or the name, as it was given. */
  readonly model: string;

  constructor(model: string, message: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super(message, { code: "ERR_MODEL_NOT_FOUND", ...options });
    this.model = model;
  }
}

/** There is no usable runtime (Python, Triton, vLLM) in the folders that were searched, or a part of it is broken. */
export class RuntimeMissingError extends TritonodeError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown; code?: string }) {
    super(options?.code ?? "ERR_RUNTIME_MISSING", message, {
      hint: "run: npx tritonode setup",
      ...options,
    });
  }
}

/** The native addon could not be loaded or built for this Node, platform or C library. */
export class AddonLoadError extends TritonodeError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super("ERR_ADDON_LOAD", message, options);
  }
}

/** The package's files are not next to its code: it was bundled, put into an archive, or copied in part. */
export class PackageFilesError extends TritonodeError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super("ERR_PACKAGE_FILES", message, options);
  }
}

/**
 * Triton answered with an error. `tritonCode` is its own name for it
 * (TRITONSERVER_Error_Code in tritonserver.h): UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED,
 * ALREADY_EXISTS, CANCELLED.
 */
export class TritonServerError extends TritonodeError {
  /** Triton's name for it, e.g. `"NOT_FOUND"`. */
  readonly tritonCode: string;

  constructor(tritonCode: string, message: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super(`ERR_TRITON_${tritonCode}`, message, options);
    this.tritonCode = tritonCode;
  }
}

/** The request was ended before its last response: by an AbortSignal, by `cancel()`, or by `dispose()`. */
export class RequestCancelledError extends TritonodeError {
  constructor(message = "the request was cancelled", options?: { hint?: string | undefined; cause?: unknown }) {
    super("ERR_REQUEST_CANCELLED", message, options);
  }
}

/** The request's own `deadline` passed before its last response. */
export class DeadlineExceededError extends TritonodeError {
  constructor(deadlineMs: number, options?: { hint?: string | undefined; cause?: unknown }) {
    super("ERR_DEADLINE_EXCEEDED", `the request did not finish within its deadline of ${deadlineMs} ms`, options);
  }
}

/** The Python child that runs the engine is gone (killed, aborted, crashed); every request it held is lost. */
export class EngineDiedError extends TritonodeError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super("ERR_ENGINE_DIED", message, options);
  }
}

/** Loading a model failed; `message` carries the reason that the backend gave. */
export class ModelLoadError extends TritonodeError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown; code?: string }) {
    super(options?.code ?? "ERR_MODEL_LOAD", message, options);
  }
}

/** The server or the model was disposed of; it takes no more calls. */
export class DisposedError extends TritonodeError {
  constructor(what: string) {
    super("ERR_DISPOSED", `${what} was disposed of`, { hint: "load it again to continue" });
  }
}
