/**
 * The state of one inference engine, so that a layer call needs three pointers only:
 * its layers' weights (given once), the ranks each slot uses, and the rows of the current step. Same C ABI rules as
 * punica.h, which says what the numbers mean.
 *
 * One thread at a time may use an engine: the one that steps the model.
 */
#ifndef TRITONODE_PUNICA_ENGINE_H
#define TRITONODE_PUNICA_ENGINE_H

#include "punica.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tritonode_punica_engine tritonode_punica_engine;

/** Which rows a call works on: a step's tokens, or the tokens that are sampled from (logits). */
typedef enum tritonode_punica_rows {
  TRITONODE_PUNICA_TOKENS = 0,
  TRITONODE_PUNICA_SAMPLED = 1
} tritonode_punica_rows;

/** @return NULL without memory */
TRITONODE_PUNICA_API tritonode_punica_engine* tritonode_punica_engine_new(int32_t slot_count);
TRITONODE_PUNICA_API void tritonode_punica_engine_free(tritonode_punica_engine* engine);

/** Sets the slot of each row for the coming step; negative: no adapter. */
TRITONODE_PUNICA_API int32_t tritonode_punica_engine_set_rows(tritonode_punica_engine* engine, int32_t which,
                                                              const int64_t* slots, int64_t count);
/** Rows with an adapter in the step. */
TRITONODE_PUNICA_API int32_t tritonode_punica_engine_row_count(const tritonode_punica_engine* engine, int32_t which);

/**
 * Keeps flags[layer] at 1 while some token row of the step has an adapter that touches the layer, else 0, so that a
 * caller can leave out calls that would do nothing. Layers of handle `count` and above have no flag. The memory is the
 * caller's and must outlive the engine; NULL ends it.
 */
TRITONODE_PUNICA_API void tritonode_punica_engine_set_flags(tritonode_punica_engine* engine, uint8_t* flags,
                                                            int64_t count);

/**
 * Adds a layer; its weights must stay where they are until the engine is freed. The layer is known by the address of
 * its first slice's A (B, if A is NULL as for an embedding); a layer of that address is replaced. No slot has ranks
 * in use until tritonode_punica_engine_slot_changed() has looked at it. `slot_ranks` of the slices is ignored.
 * @return a handle, or -1
 */
TRITONODE_PUNICA_API int64_t tritonode_punica_engine_add_layer(tritonode_punica_engine* engine,
                                                               const tritonode_punica_slice* slices,
                                                               int32_t slice_count, int64_t inputs);
/**
 * Looks at a slot's weights again: after they were written (`filled` 1) or zeroed (0). Ranks in use are counted, and B is copied;
 * without memory for the copy, calls read B itself.
 * @return the largest rank in use among the slices, or -1
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_engine_slot_changed(tritonode_punica_engine* engine, int64_t layer,
                                                                  int32_t slot, int32_t filled);

/**
 * tritonode_punica_linear() (with A) or tritonode_punica_expand() of x (without) on the engine's own state. Rows of x
 * beyond the announced ones are padding. For SAMPLED rows, x may be other rows of the step (prompt log-probabilities)
 * if that leaves no doubt: one adapter serves all rows, or none touches this layer.
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_engine_apply(tritonode_punica_engine* engine, int64_t layer,
                                                           int32_t which, const tritonode_punica_matrix* x,
                                                           int64_t x_rows, const tritonode_punica_matrix* y,
                                                           float scale);

/**
 * The functions of torch's stable C API (torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h) that
 * the torch operator needs. The caller, which has torch loaded, looks them up. This library itself never links torch.
 */
typedef struct tritonode_punica_torch {
  int32_t (*library_init_fragment)(const char* ns, const char* file, uint32_t line, void** library);
  int32_t (*library_init_impl)(const char* ns, const char* key, const char* file, uint32_t line, void** library);
  int32_t (*library_def)(void* library, const char* schema);
  int32_t (*library_impl)(void* library, const char* name, void (*kernel)(uint64_t*, uint64_t, uint64_t));
  int32_t (*get_data_ptr)(void* tensor, void** data);
  int32_t (*get_dim)(void* tensor, int64_t* dim);
  int32_t (*get_sizes)(void* tensor, int64_t** sizes);
  int32_t (*get_strides)(void* tensor, int64_t** strides);
  int32_t (*get_dtype)(void* tensor, int32_t* dtype);
  int32_t (*delete_tensor)(void* tensor);
  int32_t float32, float16, bfloat16, int64, int32; /**< torch's numbers of these dtypes */
} tritonode_punica_torch;

/**
 * Registers  tritonode_punica::lora_(Tensor(a!) y, Tensor x, Tensor weight, int rows, float scale) -> ()  for the CPU,
 * once a process: y += scale * LoRA of the layer known by the address of `weight`, on the rows that `rows` names. A
 * layer call from eager or compiled code then enters C++ directly. An invalid call throws std::runtime_error, which
 * torch turns into a Python RuntimeError. Beside it, tritonode_punica_rms_norm()
 * as
 *   rms_norm_(Tensor(a!) out, Tensor x, Tensor weight, float epsilon) -> ()
 *   fused_add_rms_norm_(Tensor(a!) x, Tensor(b!) residual, Tensor weight, float epsilon) -> ()
 * tritonode_punica_silu_and_mul() as  silu_and_mul_(Tensor(a!) out, Tensor x) -> (),  and tritonode_punica_rope() as
 *   rope_(Tensor(a!) query, Tensor(b!) key, Tensor positions, Tensor cos_sin, int head_size) -> (),
 * and tritonode_punica_store_kv() (if `store`) and tritonode_punica_attend() as
 *   attention_(Tensor(a!) out, Tensor query, Tensor key, Tensor value, Tensor(b!) cache, Tensor slots, Tensor starts,
 *              Tensor lengths, Tensor blocks, bool store, int window, bool causal, float scale, float softcap) -> ()
 * with query and out [tokens, heads, head_size], key and value [tokens, kv_heads, head_size], and the cache
 * [blocks, kv_heads, block_size, 2 * head_size].
 */
TRITONODE_PUNICA_API int32_t tritonode_punica_register_torch(const tritonode_punica_torch* torch);

#ifdef __cplusplus
}
#endif
#endif
