import { TritonodeError } from "../../errors";

/** vLLM's application answered with an HTTP error; `message` is vLLM's own. */
export class HttpStatusError extends TritonodeError {
  /** The HTTP status, e.g. 404. */
  readonly status: number;
  /** The body of the response; parsed, if it is JSON. */
  readonly body: unknown;

  constructor(
    status: number,
    message: string,
    body: unknown,
    options?: { hint?: string | undefined; cause?: unknown },
  ) {
    super("ERR_HTTP_STATUS", message, {
      hint: `vLLM answered with HTTP status ${status}; \`body\` has its whole answer`,
      ...options,
    });
    this.status = status;
    this.body = body;
  }
}

/** A structured answer that does not match its schema, usually because it was cut off. */
export class StructuredOutputError extends TritonodeError {
  /** The model's answer, unchanged. */
  readonly text: string;

  constructor(message: string, text: string, options?: { hint?: string | undefined; cause?: unknown }) {
    super("ERR_STRUCTURED_OUTPUT", message, options);
    this.text = text;
  }
}
