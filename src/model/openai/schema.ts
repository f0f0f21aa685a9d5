import { InvalidArgumentError } from "../../errors";
import { StructuredOutputError } from "./errors";

/** A JSON schema, as an object. */
export type JsonSchema = { readonly [keyword: string]: unknown };

/**
 * A schema of a validation library with the Standard Schema interface (https://standardschema.dev): zod 4.2 and later, and
 * others that can convert their schemas to JSON Schema.
 */
export interface StandardSchema<T> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    /** Checks a value. */
    readonly validate: (value: unknown) => SchemaResult<T> | Promise<SchemaResult<T>>;
    readonly types?: { readonly input: unknown; readonly output: T } | undefined;
    readonly jsonSchema?: unknown;
  };
}

type SchemaResult<T> =
  | { readonly value: T; readonly issues?: undefined }
  | { readonly issues: readonly { readonly message: string; readonly path?: readonly unknown[] | undefined }[] };

/** A schema for an answer. */
export type Structure<T = unknown> = StandardSchema<T> | JsonSchema;

function isStandard<T>(schema: Structure<T>): schema is StandardSchema<T> {
  return typeof (schema as Partial<StandardSchema<T>>)["~standard"] === "object";
}

/** @throws {@link InvalidArgumentError} for a schema that cannot be converted to a JSON schema. */
export function toJsonSchema(schema: Structure<unknown>): JsonSchema {
  if (typeof schema !== "object" || schema === null) {
    throw new InvalidArgumentError("structured must be a JSON schema (an object) or a zod schema");
  }
  if (!isStandard(schema)) return schema;
  const writer = schema["~standard"].jsonSchema as { input?: (options: object) => JsonSchema } | undefined;
  if (typeof writer?.input !== "function") {
    throw new InvalidArgumentError(`the schema of ${schema["~standard"].vendor} cannot be converted to a JSON schema`, {
      hint: "use zod 4.2 or later, or pass a JSON schema",
    });
  }
  try {
    return writer.input({ target: "draft-2020-12" });
  } catch (cause) {
    throw new InvalidArgumentError(`the schema cannot be converted to a JSON schema: ${(cause as Error).message}`, {
      cause,
    });
  }
}

/** Parses an answer and validates it, if the schema can validate. @throws {@link StructuredOutputError} */
export async function parseStructured<T>(schema: Structure<T>, text: string, finishReason: string): Promise<T> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new StructuredOutputError(`the answer is not valid JSON: ${text.slice(0, 80)}`, text, {
      cause,
      hint: finishReason === "length" ? "it was cut off: raise max_tokens" : undefined,
    });
  }
  if (!isStandard(schema)) return value as T;
  const result = await schema["~standard"].validate(value);
  if (result.issues === undefined) return result.value;
  const issues = result.issues.map(({ message, path }) => {
    const where = path?.map((step) =>
      String(typeof step === "object" && step !== null && "key" in step ? step.key : step),
    );
    return where === undefined || where.length === 0 ? message : `${where.join(".")}: ${message}`;
  });
  throw new StructuredOutputError(`the answer does not match the schema: ${issues.join("; ")}`, text);
}
