// The inner kernels as one table per instruction set. Only schedule.cc calls them.
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

/// out[t * out_stride + j] = scale * dot(x[t], a[j]) for t < tokens, j < ranks, over `inputs` elements.
using Shrink = void (*)(const void* const* x, int tokens, const void* const* a, int ranks, int64_t inputs, float scale,
                        float* out, int64_t out_stride);

/// y[t][o] (+)= sum over j of tmp[t][j] * b[o * b_row_stride + j], for t < tokens, o < outputs.
/// `panel` holds rank * kPanelColumns floats, 64-byte aligned.
using Expand = void (*)(const float* const* tmp, int tokens, const void* b, int64_t b_row_stride, int rank,
                        int64_t outputs, void* const* y, bool add, float* panel);

/// RMS norm of a row of n: out = x / sqrt(mean(x^2) + epsilon) * weight, in float32. With a residual, x + residual is
/// normed and written back to it. `wide` holds n floats, 64-byte aligned; out may be x.
using Norm = void (*)(const void* x, void* residual, const void* weight, void* out, int64_t n, float epsilon,
                      float* wide);

/// out[i] = silu(gate[i]) * up[i] for i < n, where silu(x) = x / (1 + exp(-x)), in float32.
using SiluMul = void (*)(const void* gate, const void* up, void* out, int64_t n);

/// Turns one head by its position's angles, in place: pairs (i, i + half), cos_sin = half cosines, then half sines.
using Rope = void (*)(void* head, const void* cos_sin, int64_t half);

/// Indexed by tritonode_punica_dtype: shrink[x][weights], expand[weights][y], norm[all], silu_mul[all],
/// rope[all].
struct Kernels {
  Shrink shrink[3][3];
  Expand expand[3][3];
  Norm norm[3];
  SiluMul silu_mul[3];
  Rope rope[3];
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
