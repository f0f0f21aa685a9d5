// The inner kernels as one table per instruction set.
#pragma once

#include <cstdint>

#include "punica.h"

namespace tritonode::punica {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

/// Rows of a block that the matrix-vector form of expand takes; above, B is transposed once for all rows.
inline constexpr int kMatvecRows = 4;
/// Columns of the widest transposed panel of B, and so floats of panel scratch for each rank.
inline constexpr int kPanelColumns = 64;
/// Outputs whose weights lie side by side in an interleaved B (interleaved.h).
inline constexpr int kInterleavedOutputs = 16;
/// Ranks whose weights, of `bytes` each, share one of its lines.
constexpr int ranks_of_line(int64_t bytes) { return bytes == 4 ? 1 : 2; }
/// Lines of kInterleavedOutputs outputs.
constexpr int64_t lines_of_panel(int64_t bytes, int rank) {
  return (rank + ranks_of_line(bytes) - 1) / ranks_of_line(bytes);
}

/// out[t * out_stride + j] = scale * dot(x[t], a[j]) for t < tokens, j < ranks, over `inputs` elements.
using Shrink = void (*)(const void* const* x, int tokens, const void* const* a, int ranks, int64_t inputs, float scale,
                        float* out, int64_t out_stride);

/// y[t][o] (+)= sum over j of tmp[t][j] * b[o * b_row_stride + j], for t < tokens, o < outputs.
/// `panel` holds rank * kPanelColumns floats, 64-byte aligned.
using Expand = void (*)(const float* const* tmp, int tokens, const void* b, int64_t b_row_stride, int rank,
                        int64_t outputs, void* const* y, bool add, float* panel);

/// The same from an interleaved B (interleaved.h), which begins with the first of the outputs.
using ExpandInterleaved = void (*)(const float* const* tmp, int tokens, const void* b, int rank, int64_t outputs,
                                   void* const* y, bool add, float* panel);

/// RMS norm of a row of n: out = x / sqrt(mean(x^2) + epsilon) * weight, in float32. With a residual, x + residual is
/// normed and written back to it. `wide` holds n floats, 64-byte aligned; out may be x.
using Norm = void (*)(const void* x, void* residual, const void* weight, void* out, int64_t n, float epsilon,
                      float* wide);

/// out[i] = silu(gate[i]) * up[i] for i < n, where silu(x) = x / (1 + exp(-x)), in float32.
using SiluMul = void (*)(const void* gate, const void* up, void* out, int64_t n);

/// Turns one head by its position's angles, in place: pairs (i, i + half), cos_sin = half cosines, then half sines.
using Rope = void (*)(void* head, const void* cos_sin, int64_t half);

/// Keys of a page of the KV cache (stored [head_size][kPageKeys]), of a tile of the softmax, and of a partition that
/// one thread may process alone.
inline constexpr int kPageKeys = 16;
inline constexpr int kTileKeys = 64;
inline constexpr int kPartitionKeys = 512;
/// Most rows (pairs of a token and a head of one KV head) that go through a tile together.
inline constexpr int kAttentionRows = 24;
/// The score of a key that a row does not see, and the maximum of a row that has seen none.
inline constexpr float kUnseen = -1e30f;

/// Rows that share a KV head, and what their softmax has come to so far. `count` is at most kAttentionRows.
struct AttentionRows {
  int count;
  int64_t head_size;     // a multiple of 16
  const float* query;    // [count][head_size], scaled
  const int64_t* from;   // first key that a row sees, and the one behind its last
  const int64_t* to;
  float cap;             // of scores (Gemma 2); 0: none
  float* maximum;        // [count], kUnseen at first
  float* sum;            // [count], 0 at first
  float* out;            // [count][head_size], 0 at first; not yet divided by sum
};

/// Adds the keys [first, first + kTileKeys) of a sequence to the rows; `keys` and `values` are its kTileKeys / kPageKeys
/// pages. `scores` holds kAttentionRows * kTileKeys floats.
using Attend = void (*)(const AttentionRows& rows, const void* const* keys, const void* const* values, int64_t first,
                        float* scores);
/// out, maximum and sum become those of both parts' keys.
using MergeRow = void (*)(float* out, float& maximum, float& sum, const float* part, float part_maximum, float part_sum,
                          int64_t n);
/// out = in / sum in the element type; n is a multiple of 16, as below.
using FinishRow = void (*)(const float* in, float sum, void* out, int64_t n);
/// out = in * scale in float32.
using WidenRow = void (*)(const void* in, float scale, float* out, int64_t n);

/// Indexed by tritonode_punica_dtype: shrink[x][weights], expand[weights][y] (and interleaved), norm[all], silu_mul[all],
/// rope[all], attend[KV cache], finish_row[output], widen_row[query].
struct Kernels {
  Shrink shrink[3][3];
  Expand expand[3][3];
  ExpandInterleaved expand_interleaved[3][3];
  Norm norm[3];
  SiluMul silu_mul[3];
  Rope rope[3];
  Attend attend[3];
  MergeRow merge_row;
  FinishRow finish_row[3];
  WidenRow widen_row[3];
};

// Each is null where the build's architecture lacks the level.
const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_bf16_kernels();
const Kernels* neon_kernels();

/// The table of the level in use (dispatch.cc).
const Kernels& active_kernels();

}  // namespace tritonode::punica
