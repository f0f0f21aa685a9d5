import { RuntimeMissingError, TritonodeError } from "../errors";

/** No usable Python was found, or the requested one is not usable (`hint` names the package that installs one). */
export class PythonNotFoundError extends RuntimeMissingError {
  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super(message, { code: "ERR_PYTHON_NOT_FOUND", ...options });
  }
}

/** `setup` or `bundle` could not finish. It leaves nothing behind that would disturb a second run. */
export class SetupError extends TritonodeError {
  /** Path of the installers' full output, if it was kept. */
  readonly log: string | undefined;

  constructor(message: string, options?: { hint?: string | undefined; cause?: unknown; code?: string; log?: string }) {
    super(options?.code ?? "ERR_SETUP_FAILED", message, options);
    this.log = options?.log;
  }
}

/** `setup` or `bundle` was aborted by its AbortSignal. */
export class SetupCancelledError extends SetupError {
  constructor(cause?: unknown) {
    super("the setup was interrupted", {
      code: "ERR_SETUP_CANCELLED",
      hint: "run the same command again: it starts from the beginning",
      cause,
    });
  }
}
