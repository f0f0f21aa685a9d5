/**
 * tritonode_linear: y = x . W^T + bias on CPUs, for weights in bfloat16, float16, float32, and in 8 or 4 bits with a scale
 * (and a minimum) for each group. Part of libtritonode_punica, whose instruction set and threads it uses (punica.h).
 *
 * Plain C: pointers, sizes, strides. Weights are packed once into a buffer that describes itself; see packed.h for its
 * layout, which is of this version and this byte order.
 *
 * Promise: a row of y depends on that row of x only. Each element is summed in float32 in one fixed order, however many
 * rows and threads there are: a row has the same bits alone and in any batch (at one instruction set; two of them may
 * differ in the last bit).
 */
#ifndef TRITONODE_LINEAR_H
#define TRITONODE_LINEAR_H

#include <stdint.h>

#include "../punica/punica.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Raised when a struct, a signature or the packed layout changes. Callers refuse a library with another number. */
#define TRITONODE_LINEAR_ABI 2

/** How weights are stored. */
typedef enum tritonode_linear_kind {
  TRITONODE_LINEAR_FLOAT32 = 0, /**< as tritonode_punica_dtype */
  TRITONODE_LINEAR_FLOAT16 = 1,
  TRITONODE_LINEAR_BFLOAT16 = 2,
  TRITONODE_LINEAR_INT8 = 3,
  TRITONODE_LINEAR_INT4 = 4
} tritonode_linear_kind;

/** Bytes before the weights in a packed buffer. */
#define TRITONODE_LINEAR_HEADER_BYTES 64

/**
 * Weights to pack: `outputs` rows of `inputs` elements. With quants, element (n, k) has the value
 *   scales[n, k / group] * q[n, k] + minimums[n, k / group].
 */
typedef struct tritonode_linear_source {
  const void* data;       /**< elements of the kind; int8_t for INT8, uint8_t of 0..15 for INT4 */
  const float* scales;    /**< [outputs, groups]; NULL for the float kinds */
  const float* minimums;  /**< [outputs, groups] or NULL */
  int64_t outputs;
  int64_t inputs;
  int64_t row_stride;     /**< elements of data */
  int64_t group;          /**< a multiple of 16, or inputs; groups = ceil(inputs / group). Ignored for the float kinds */
  int32_t kind;           /**< tritonode_linear_kind */
  int32_t activation_bits; /**< of x with quants: 16, or 8 (also 0). Ignored for the float kinds */
} tritonode_linear_source;

TRITONODE_PUNICA_API int32_t tritonode_linear_abi_version(void);

/**
 * Bytes of the packed buffer of a source; -1 if the source is invalid. Reads scales and minimums: those that fit are
 * kept in 16 bits, and minimums that are one whole multiple of the scales are kept as a zero point.
 */
TRITONODE_PUNICA_API int64_t tritonode_linear_packed_bytes(const tritonode_linear_source* source);
/**
 * Packs a source on the process's threads (tritonode_punica_set_parallel()), without memory of its own.
 * @param packed tritonode_linear_packed_bytes() bytes, 64-byte aligned
 * @return TRITONODE_PUNICA_INVALID if `bytes` is another number, or a quant is above 15
 */
TRITONODE_PUNICA_API int32_t tritonode_linear_pack(const tritonode_linear_source* source, void* packed, int64_t bytes);

/** What a packed buffer holds. */
typedef struct tritonode_linear_shape {
  int64_t outputs;
  int64_t inputs;
  int64_t group;   /**< 0 for the float kinds */
  int32_t kind;
  int32_t zero;    /**< zero point, where no minimums are kept */
  int32_t scale_bits;   /**< 0, 16 or 32 */
  int32_t minimum_bits; /**< 0, 16 or 32 */
  int32_t activation_bits; /**< 8 or 16; 0 for the float kinds */
} tritonode_linear_shape;

/** Reads the head of a packed buffer: TRITONODE_PUNICA_INVALID if it is not one of this version and of `bytes` bytes. */
TRITONODE_PUNICA_API int32_t tritonode_linear_describe(const void* packed, int64_t bytes,
                                                       tritonode_linear_shape* shape);
/** Writes the values of rows [begin, end) as float32 to out, [end - begin, inputs]. */
TRITONODE_PUNICA_API int32_t tritonode_linear_unpack(const void* packed, int64_t bytes, int64_t begin, int64_t end,
                                                     float* out);
/** Writes the values of rows ids[0] to ids[count - 1] as float32 to out, [count, inputs]: an embedding's look-up. */
TRITONODE_PUNICA_API int32_t tritonode_linear_rows(const void* packed, int64_t bytes, const int64_t* ids, int64_t count,
                                                   float* out);

/**
 * y = x . W^T + bias for `rows` rows.
 *
 * Float kinds multiply exactly the elements given: bfloat16 by bfloat16 with bfloat16 instructions where there are some,
 * all else in float32. For the quants, x is quantised first: each row in runs of 32 (16 where the group is no multiple of
 * 32) to whole numbers with a float32 scale, so products within a run are sums of whole numbers, which are exact. The
 * numbers are of 8 bits, or, with activation_bits 16, of 15: two of 8 bits each, which takes twice the multiplications (at
 * AVX2 with 8-bit weights one of 16 bits, which takes as many).
 * @param x [rows, inputs], float32, float16 or bfloat16
 * @param bias `outputs` elements of bias_dtype, or NULL
 * @param y [rows, outputs], any of the three types
 */
TRITONODE_PUNICA_API int32_t tritonode_linear(const tritonode_punica_matrix* x, int64_t rows, const void* packed,
                                              int64_t bytes, const void* bias, int32_t bias_dtype,
                                              const tritonode_punica_matrix* y);

/**
 * Registers  tritonode_linear::linear_(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias) -> ()  for the CPU, once a
 * process: weight is a packed buffer as a tensor of uint8, bias may have no elements. An invalid call throws
 * std::runtime_error, which torch turns into a Python RuntimeError.
 * @return TRITONODE_PUNICA_UNSUPPORTED before tritonode_punica_register_torch(), whose functions it uses
 */
TRITONODE_PUNICA_API int32_t tritonode_linear_register_torch(void);

#ifdef __cplusplus
}
#endif
#endif
