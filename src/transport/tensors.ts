import { describe } from "../common/describe";
import { InvalidArgumentError } from "../errors";

/** Triton's names of its data types; the position is `TRITONSERVER_DataType` (tritonserver.h). */
const names = [
  "INVALID",
  "BOOL",
  "UINT8",
  "UINT16",
  "UINT32",
  "UINT64",
  "INT8",
  "INT16",
  "INT32",
  "INT64",
  "FP16",
  "FP32",
  "FP64",
  "BYTES",
  "BF16",
] as const;

/** Triton's names of its data types. */
export type TritonDataType = Exclude<(typeof names)[number], "INVALID">;

/**
 * A tensor's elements in row-major order.
 *
 * | datatype | data |
 * | --- | --- |
 * | BYTES (TYPE_STRING in a model configuration) | `string[]` (UTF-8) or `Uint8Array[]` |
 * | BOOL | `boolean[]`, or a `Uint8Array` of 0 and 1 |
 * | INT8 … FP64 | the typed array of that size, or `number[]` (`bigint[]` for 64-bit integers) |
 * | FP16, BF16 | a `Uint16Array` of the bit patterns |
 *
 * Outputs have the first form of each row.
 */
export type TensorData =
  | readonly string[]
  | readonly Uint8Array[]
  | readonly boolean[]
  | readonly number[]
  | readonly bigint[]
  | NumericArray;

/** Typed arrays that tensors of numbers are made of. */
export type NumericArray =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float32Array
  | Float64Array;

/** A named tensor. `shape` may be left out for an input: then it is `[data.length]`. */
export interface Tensor<Data = TensorData> {
  /** The input's or output's name in the model's configuration. */
  readonly name: string;
  /** The type of its elements. */
  readonly datatype: TritonDataType;
  /** Its dimensions; their product is the number of elements. */
  readonly shape: readonly number[];
  /** Its elements, row by row. */
  readonly data: Data;
}

/** A tensor to send; `shape` defaults to `[data.length]`. */
export type InputTensor = Omit<Tensor, "shape"> & { readonly shape?: readonly number[] | undefined };

type ArrayClass = { new (values: never): NumericArray; readonly BYTES_PER_ELEMENT: number };

const arrays: Partial<Record<TritonDataType, ArrayClass>> = {
  UINT8: Uint8Array as unknown as ArrayClass,
  UINT16: Uint16Array as unknown as ArrayClass,
  UINT32: Uint32Array as unknown as ArrayClass,
  UINT64: BigUint64Array as unknown as ArrayClass,
  INT8: Int8Array as unknown as ArrayClass,
  INT16: Int16Array as unknown as ArrayClass,
  INT32: Int32Array as unknown as ArrayClass,
  INT64: BigInt64Array as unknown as ArrayClass,
  FP16: Uint16Array as unknown as ArrayClass,
  BF16: Uint16Array as unknown as ArrayClass,
  FP32: Float32Array as unknown as ArrayClass,
  FP64: Float64Array as unknown as ArrayClass,
};

/** A tensor of one dimension. */
export function tensor(name: string, datatype: TritonDataType, data: TensorData): Tensor {
  return { name, datatype, shape: [data.length], data };
}

/** The name of an output's data type. */
export function dataTypeName(number: number): TritonDataType {
  return (names[number] ?? "INVALID") as TritonDataType;
}

/** Checks an input and converts it to the form that the addon expects. @throws {@link InvalidArgumentError} */
export function toNativeTensor(tensor: InputTensor): {
  name: string;
  datatype: number;
  shape: number[];
  data: unknown;
} {
  if (
    typeof tensor !== "object" ||
    tensor === null ||
    typeof tensor.name !== "string" ||
    tensor.name === "" ||
    tensor.name.includes("\0")
  ) {
    throw new InvalidArgumentError("an input tensor needs a name, without NUL");
  }
  const { name, datatype } = tensor;
  const number = names.indexOf(datatype);
  if (number <= 0) {
    throw new InvalidArgumentError(`input '${name}' has the unknown datatype ${describe(datatype)}`, {
      hint: `use one of ${names.slice(1).join(", ")}`,
    });
  }
  const data = normalise(tensor);
  const count = data.length;
  if (tensor.shape !== undefined && !Array.isArray(tensor.shape)) {
    throw new InvalidArgumentError(`input '${name}' has a shape that is not an array: ${describe(tensor.shape)}`);
  }
  const shape: number[] = [...(tensor.shape ?? [count])];
  let product = 1;
  for (const dimension of shape) {
    if (!Number.isSafeInteger(dimension) || dimension < 0) {
      throw new InvalidArgumentError(`input '${name}' has a bad dimension ${describe(dimension)} in its shape`);
    }
    product *= dimension;
  }
  if (product !== count) {
    throw new InvalidArgumentError(`input '${name}' has ${count} elements, but its shape [${shape}] holds ${product}`);
  }
  return { name, datatype: number, shape, data };
}

function normalise(tensor: InputTensor): readonly unknown[] | NumericArray {
  const { name, datatype, data } = tensor;
  const wrong = (what: string): never => {
    throw new InvalidArgumentError(`input '${name}' (${datatype}) ${what}`);
  };
  if (datatype === "BYTES") {
    if (!Array.isArray(data)) return wrong("must be an array of strings or Uint8Arrays");
    for (const element of data) {
      if (typeof element !== "string" && !(element instanceof Uint8Array)) {
        return wrong("must be an array of strings or Uint8Arrays");
      }
    }
    return data;
  }
  if (datatype === "BOOL") {
    if (data instanceof Uint8Array) return data;
    if (!Array.isArray(data) || !data.every((each) => typeof each === "boolean")) {
      return wrong("must be an array of booleans or a Uint8Array");
    }
    return data;
  }
  const array = arrays[datatype];
  if (array === undefined) return wrong("is not supported");
  if (data instanceof (array as unknown as new () => NumericArray)) return data;
  // The data type holds bit patterns, not numbers: a silent conversion would send garbage.
  if (datatype === "FP16" || datatype === "BF16") return wrong("must be a Uint16Array of the numbers' bits");
  if (!Array.isArray(data)) return wrong("must be the typed array of that datatype or a plain array");
  if (datatype === "INT64" || datatype === "UINT64") {
    const integers = data.map((each) => (Number.isSafeInteger(each) ? BigInt(each as number) : each));
    if (!integers.every((each) => typeof each === "bigint")) return wrong("must hold bigints or integers");
    return new array(integers as never);
  }
  if (!data.every((each) => typeof each === "number")) return wrong("must hold numbers");
  return new array(data as never);
}
