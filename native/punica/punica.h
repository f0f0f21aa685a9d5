/**
 * tritonode_punica: segmented gather kernels for many LoRA adapters in one batch, on CPUs.
 *
 * A LoRA layer adds  y[t, offset:offset+O] += scale * (x[t] . A[slot]^T) . B[slot]^T  where `slot` is the row's own
 * adapter. This library does that for every row of a batch and every slice of a fused layer (q, k and v; gate and
 * up) in one call. The method is that of Punica (Chen et al., 2023): rows are grouped by adapter, so that each
 * adapter's weights are read once a step, and rows without one cost nothing.
 *
 * Plain C: pointers, sizes, strides. It knows neither Python nor torch nor Node, links no threading library and
 * keeps no global state but the chosen instruction set and the caller's parallel-for.
 *
 * Promise: a row's result depends on that row and its adapter only. Each output element is accumulated in float32 in
 * one fixed order, whatever else is in the batch, however rows are grouped and however many threads help. So a row
 * of a mixed batch has exactly the bits that it has alone (at one instruction set; two of them may differ in the
 * last bit).
 */
#ifndef TRITONODE_PUNICA_H
#define TRITONODE_PUNICA_H

#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define TRITONODE_PUNICA_API __attribute__((visibility("default")))
#else
#define TRITONODE_PUNICA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/** Raised when a struct or a signature below changes. Callers refuse a library with another number. */
#define TRITONODE_PUNICA_ABI 3

/** Element types of activations and weights. Accumulation is float32 always. */
typedef enum tritonode_punica_dtype {
  TRITONODE_PUNICA_FLOAT32 = 0,
  TRITONODE_PUNICA_FLOAT16 = 1,
  TRITONODE_PUNICA_BFLOAT16 = 2
} tritonode_punica_dtype;

/** Instruction sets, in rising order of preference on their architecture. */
typedef enum tritonode_punica_level {
  TRITONODE_PUNICA_PORTABLE = 0,
  TRITONODE_PUNICA_AVX2 = 1,
  TRITONODE_PUNICA_AVX512 = 2,
  TRITONODE_PUNICA_AVX512_BF16 = 3,
  TRITONODE_PUNICA_NEON = 4
} tritonode_punica_level;
#define TRITONODE_PUNICA_LEVELS 5

/** Results of the calls. */
typedef enum tritonode_punica_status {
  TRITONODE_PUNICA_OK = 0,
  TRITONODE_PUNICA_INVALID = 1,     /**< a size, stride, dtype or slot out of range */
  TRITONODE_PUNICA_UNSUPPORTED = 2, /**< the instruction set is not there */
  TRITONODE_PUNICA_NO_MEMORY = 3    /**< scratch memory could not be had; y is unchanged or partly done */
} tritonode_punica_status;

/**
 * One slice of a (fused) layer. Weights are row-major; strides count elements, the innermost stride is 1.
 * A[slot] is [rank, input], B[slot] is [outputs, rank].
 */
typedef struct tritonode_punica_slice {
  const void* a;               /**< NULL for an expand */
  const void* b;               /**< NULL for a shrink */
  int64_t a_slot_stride;
  int64_t a_row_stride;
  int64_t b_slot_stride;
  int64_t b_row_stride;
  int64_t outputs;             /**< O */
  int64_t y_offset;            /**< first column of y */
  const int32_t* slot_ranks;   /**< ranks in use by slot, each 0..rank (0: this slot leaves the slice alone); or NULL */
  int32_t rank;                /**< ranks stored: max_lora_rank */
  int32_t weight_dtype;        /**< tritonode_punica_dtype of a and b */
} tritonode_punica_slice;

/** Rows of one adapter: `rows[first .. first+count)` of the grouped row list. */
typedef struct tritonode_punica_group {
  int32_t slot;
  int32_t first;
  int32_t count;
} tritonode_punica_group;

/** The rows of a step that carry an adapter, grouped by slot. Made by tritonode_punica_group_rows(). */
typedef struct tritonode_punica_batch {
  const tritonode_punica_group* groups;
  const int32_t* rows; /**< row numbers of x and y, ascending inside a group */
  int32_t group_count; /**< 0: no row has an adapter, calls return at once */
  int32_t row_count;   /**< rows with an adapter */
} tritonode_punica_batch;

/** A row-major matrix of activations; the innermost stride is 1. */
typedef struct tritonode_punica_matrix {
  void* data;
  int64_t row_stride; /**< elements */
  int32_t dtype;      /**< tritonode_punica_dtype */
} tritonode_punica_matrix;

TRITONODE_PUNICA_API int32_t tritonode_punica_abi_version(void);

/** Whether this machine and build can run a level: 1 or 0. */
TRITONODE_PUNICA_API int32_t tritonode_punica_supports(int32_t level);
/**
 * The level in use. At load: the best there is, or the one that TRITONODE_PUNICA_LEVEL names ("avx2"). -1 if it names
 * none that this machine and build can run; calls then run on the portable level until another is set.
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_get_level(void);
/** Chooses a level for the process. TRITONODE_PUNICA_UNSUPPORTED if it is not there. */
TRITONODE_PUNICA_API int32_t tritonode_punica_set_level(int32_t level);
/** "portable", "avx2", "avx512", "avx512_bf16", "neon"; NULL for another number. */
TRITONODE_PUNICA_API const char* tritonode_punica_level_name(int32_t level);

/**
 * The caller's threads. Work is offered as ranges of [begin, end) with at least `grain` items each; the signature is
 * that of torch_parallel_for in torch's stable C API, so the threads can be torch's own team: a second OpenMP runtime
 * spinning beside it would take the cores that the model needs.
 */
typedef int32_t (*tritonode_punica_parallel_for)(int64_t begin, int64_t end, int64_t grain,
                                                 void (*body)(int64_t begin, int64_t end, void* context),
                                                 void* context);
/** Sets the process's parallel-for and its number of threads; NULL or 1: the caller's thread does all. */
TRITONODE_PUNICA_API void tritonode_punica_set_parallel(tritonode_punica_parallel_for run, int32_t threads);

/**
 * Groups rows by slot.
 * @param slots slot of each row, negative: no adapter
 * @param rows room for `count` row numbers
 * @param groups room for min(count, slot_count) groups
 * @return the number of groups and, in *row_count, of rows with an adapter; -1 if a slot is slot_count or more
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_group_rows(const int64_t* slots, int64_t count, int32_t slot_count,
                                                         int32_t* rows, tritonode_punica_group* groups,
                                                         int32_t* row_count);

/**
 * y += scale * (x . A^T) . B^T for all slices; the layer call.
 * @param inputs length of a row of x
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_linear(const tritonode_punica_slice* slices, int32_t slice_count,
                                                     const tritonode_punica_batch* batch,
                                                     const tritonode_punica_matrix* x, int64_t inputs,
                                                     const tritonode_punica_matrix* y, float scale);

/**
 * tmp[slice][t, 0:rank] = scale * x[t] . A^T. Rows without an adapter are left as they are; ranks that the slot does
 * not use are set to zero.
 * @param tmp one float32 matrix for each slice, of at least `rank` columns
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_shrink(const tritonode_punica_slice* slices, int32_t slice_count,
                                                     const tritonode_punica_batch* batch,
                                                     const tritonode_punica_matrix* x, int64_t inputs,
                                                     const tritonode_punica_matrix* tmp, float scale);

/**
 * y[t, offset:offset+O] (+)= tmp[slice][t] . B^T.
 * @param tmp one matrix for each slice, any dtype, of at least `rank` columns
 * @param add 1: added to y; 0: y is overwritten (rows without an adapter are left as they are)
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_expand(const tritonode_punica_slice* slices, int32_t slice_count,
                                                     const tritonode_punica_batch* batch,
                                                     const tritonode_punica_matrix* tmp,
                                                     const tritonode_punica_matrix* y, int32_t add);

/**
 * RMS norm, row by row: out = x / sqrt(mean(x^2) + epsilon) * weight. With `residual`, x + residual is normed and
 * stored there. All of one dtype; out may be x. Here because an engine with LoRA is not compiled (nothing fuses the
 * norm's small operators there), and because a few rows are done before a thread team would have woken up.
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_rms_norm(const tritonode_punica_matrix* x, int64_t rows, int64_t columns,
                                                       const tritonode_punica_matrix* residual, const void* weight,
                                                       const tritonode_punica_matrix* out, float epsilon);

/**
 * SwiGLU's activation, row by row: out = silu(x[:, :n]) * x[:, n:], where x has 2 n columns. One dtype. Here for the
 * same reason as the norm.
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_silu_and_mul(const tritonode_punica_matrix* x, int64_t rows, int64_t n,
                                                           const tritonode_punica_matrix* out);

/**
 * Rotary embedding of all heads of x (neox order: pairs half a head apart), in place.
 * @param positions row of cos_sin for each row of x
 * @param cos_sin head_size columns: cosines, then sines; x's dtype
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_rope(const tritonode_punica_matrix* x, int64_t rows, int64_t columns,
                                                   const int64_t* positions, const tritonode_punica_matrix* cos_sin,
                                                   int64_t position_count, int64_t head_size);

/**
 * A step's attention over a paged KV cache. Rows are tokens; a request's tokens are the last ones of its sequence.
 *
 * The cache is [blocks, kv_heads, 2 * block_size * head_size], of this library's own inner layout: keys as pages
 * [block_size / 16][head_size][16], then values as [block_size][head_size]. Only tritonode_punica_store_kv() and
 * tritonode_punica_attend() may use it.
 *
 * The promise of this header holds here too: what a token gets depends on its query and its sequence's keys and values
 * only, not on the other requests, on how a prompt is cut into steps, or on threads.
 */
typedef struct tritonode_punica_attention {
  const void* query;                /**< [tokens, heads * head_size] */
  void* output;                     /**< [tokens, heads * head_size] */
  void* cache;
  const int32_t* query_starts;      /**< requests + 1: first row of each request */
  const int32_t* sequence_lengths;  /**< keys of each request, this step's tokens included */
  const int32_t* block_table;       /**< [requests, block_table_stride] */
  int64_t query_stride;             /**< elements from row to row; as are the other strides */
  int64_t output_stride;
  int64_t block_stride;
  int64_t head_stride;
  int64_t block_table_stride;       /**< also how many blocks a request has at most */
  int64_t blocks;                   /**< of the cache */
  int32_t block_size;               /**< tokens of a block, a multiple of 16 */
  int32_t requests;
  int32_t heads;                    /**< a multiple of kv_heads, at most 24 times as many */
  int32_t kv_heads;
  int32_t head_size;                /**< a multiple of 16 */
  int32_t dtype;                    /**< of query, output and cache */
  int32_t window;                   /**< keys that a token sees, itself included; 0: all before it */
  int32_t causal;                   /**< 0: a token also sees the keys behind it */
  float scale;                      /**< of scores */
  float softcap;                    /**< scores become softcap * tanh(score / softcap); 0: they stay */
} tritonode_punica_attention;

/** output = softmax(query . keys^T) . values for every token and head. */
TRITONODE_PUNICA_API int32_t tritonode_punica_attend(const tritonode_punica_attention* call);

/**
 * Writes keys and values into the cache that `call` describes (cache, blocks, strides, sizes and dtype are read).
 * @param key [tokens, kv_heads * head_size]; value likewise
 * @param slots block * block_size + place for each token; negative: this token is not kept
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_store_kv(const tritonode_punica_attention* call,
                                                       const tritonode_punica_matrix* key,
                                                       const tritonode_punica_matrix* value, const int64_t* slots,
                                                       int64_t tokens);

/**
 * How many of a slot's ranks hold anything: one more than the last rank whose row of A and whose column of B both
 * have a nonzero. Engines zero-pad to max_lora_rank and keep zeros for untouched layers; neither need be read again.
 * A NULL a or b counts as nonzero.
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_used_rank(const tritonode_punica_slice* slice, int64_t inputs,
                                                        int32_t slot);

#ifdef __cplusplus
}
#endif
#endif
