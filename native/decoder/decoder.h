/**
 * tritonode_decoder: all layers of a LLaMA-like decoder in one call. Part of libtritonode_punica.
 *
 * A decoder is described once: its norms, its linear layers (linear.h) with their LoRA layers (engine.h), its rotary
 * embedding and its KV cache (punica.h). A step then runs the calls of those headers one after the other, with no
 * interpreter between them. It gives the bits that the same calls give one by one.
 *
 * Plain C: pointers, sizes, strides. One thread at a time may run a decoder.
 */
#ifndef TRITONODE_DECODER_H
#define TRITONODE_DECODER_H

#include <stdint.h>

#include "../punica/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

/** Raised when a struct or a signature changes. Callers refuse a library with another number. */
#define TRITONODE_DECODER_ABI 1

/** Some neighbouring outputs of a linear layer. */
typedef struct tritonode_decoder_part {
  const void* packed;    /**< a packed buffer (linear.h) */
  int64_t bytes;
  const int64_t* order;  /**< the input that each column of the weight is for; NULL: in the inputs' own order */
} tritonode_decoder_part;

/** A linear layer: its parts' outputs follow each other. */
typedef struct tritonode_decoder_linear {
  const tritonode_decoder_part* parts;
  const void* bias;                /**< one element for each output of all parts; NULL: none */
  tritonode_punica_engine* lora;   /**< NULL: no adapters */
  int64_t lora_layer;              /**< the layer's handle in `lora` */
  int32_t part_count;
  int32_t bias_dtype;
} tritonode_decoder_linear;

typedef struct tritonode_decoder_norm {
  const void* weight;  /**< of the decoder's type; NULL: no such norm */
  float epsilon;
} tritonode_decoder_norm;

typedef struct tritonode_decoder_layer {
  tritonode_decoder_norm input_norm;  /**< before attention */
  tritonode_decoder_norm query_norm;  /**< of each head; may be absent */
  tritonode_decoder_norm key_norm;    /**< likewise */
  tritonode_decoder_norm mlp_norm;    /**< before the MLP */
  tritonode_decoder_linear qkv;       /**< queries, keys, values */
  tritonode_decoder_linear attention_output;
  tritonode_decoder_linear gate_up;   /**< gates, then what they multiply */
  tritonode_decoder_linear down;
  tritonode_punica_matrix cos_sin;    /**< of the rotary embedding: a row for each position, of head_size columns */
  int64_t position_count;             /**< rows of cos_sin */
  void* cache;                        /**< KV cache and its sizes, as in tritonode_punica_attention */
  int64_t block_stride;
  int64_t head_stride;
  int64_t blocks;
  int32_t block_size;
  int32_t window;
  float scale;
  float softcap;
} tritonode_decoder_layer;

typedef struct tritonode_decoder_description {
  const tritonode_decoder_layer* layers;
  tritonode_decoder_norm norm;  /**< after the last layer */
  int64_t hidden;
  int64_t intermediate;         /**< half of gate_up's outputs */
  int32_t layer_count;
  int32_t heads;
  int32_t kv_heads;
  int32_t head_size;
  int32_t dtype;                /**< of activations, norms and the KV cache */
} tritonode_decoder_description;

/** The rows of a step, as in tritonode_punica_attention. Rows behind those of the last request are padding. */
typedef struct tritonode_decoder_step {
  tritonode_punica_matrix input;    /**< [rows, hidden], of the decoder's type */
  tritonode_punica_matrix output;   /**< [rows, hidden]; may be `input` */
  const int64_t* positions;         /**< [rows] */
  const int64_t* slots;             /**< [slot_count]: where a row's keys and values go; negative: nowhere */
  const int32_t* query_starts;      /**< requests + 1 */
  const int32_t* sequence_lengths;  /**< requests */
  const int32_t* block_table;       /**< [requests, block_table_stride] */
  int64_t rows;
  int64_t slot_count;
  int64_t block_table_stride;
  int32_t requests;
  int32_t causal;
} tritonode_decoder_step;

typedef struct tritonode_decoder tritonode_decoder;

TRITONODE_PUNICA_API int32_t tritonode_decoder_abi_version(void);

/**
 * Keeps a copy of a description. What it points to (weights, adapters, caches) must outlive the decoder.
 * @param reason receives a sentence without a full stop where the result is NULL; it lives as long as the process
 * @return NULL if sizes do not fit together, or without memory
 */
TRITONODE_PUNICA_API tritonode_decoder* tritonode_decoder_new(const tritonode_decoder_description* description,
                                                              const char** reason);
TRITONODE_PUNICA_API void tritonode_decoder_free(tritonode_decoder* decoder);

/** Runs all layers and the last norm. The engines of the LoRA layers know the rows' adapters already. */
TRITONODE_PUNICA_API int32_t tritonode_decoder_run(tritonode_decoder* decoder, const tritonode_decoder_step* step);

#ifdef __cplusplus
}
#endif
#endif
