// The inner kernels as one table per instruction set. Only matmul.cc calls them.
#pragma once

#include <cstdint>

#include "../punica/kernels.h"
#include "linear.h"

namespace tritonode::linear {

using punica::bfloat16;
using punica::float16;

/// Rows of a tile: the heights that kernels exist for, largest first. A tile with fewer rows is padded with zeros.
inline constexpr int kHeights[] = {12, 8, 4, 2, 1};
inline constexpr int kHeightCount = 5;

/// How rows of x are laid out for the kernels. Element order: by steps, ascending, then by rows of the tile.
enum class Form {
  kFloats,  // float32
  kPairs,   // two bfloat16 in 32 bits
  kQuants   // four int8 in 32 bits, and for each run the constants of Tile
};

/// Some rows of x, in a form.
struct Tile {
  const void* x;
  const float* scale;       // kQuants: [runs][height], the scale of x's quants
  const float* sum;         // kQuants: [runs][height], the run's sum of quants, times the scale
  const int32_t* offset;    // kQuants: [runs][height], minus the run's sum of quants, times what is stored for zero
};

/// A block of 16 outputs.
struct Block {
  const uint8_t* weights;
  const uint8_t* scales;
  const uint8_t* minimums;  // null: none
  int64_t steps;            // float kinds: inputs / 4; quants: runs
  int64_t runs_of_group;
  bool half_scales, half_minimums;
};

/// Where a tile's results go: rows[t] is the first of `columns` elements for t < count.
struct Output {
  void* const* rows;
  const void* bias;  // null: none
  int count;
  int columns;
  int32_t dtype, bias_dtype;
};

using Multiply = void (*)(const Block& block, const Tile& tile, const Output& out);

/// A row of x of n elements as float32, padded with zeros to `padded`.
using Widen = void (*)(const void* x, int64_t n, int64_t padded, float* out);
/// A row as int8 in runs: quants[padded], scale[runs], and the sum of each run's quants. In 64-byte aligned memory.
using Quantise = void (*)(const float* x, int64_t runs, int run, int8_t* quants, float* scale, int32_t* sum);

struct Kernels {
  Multiply floats[3][kHeightCount];  // by the weights' kind; Form::kFloats
  Multiply pairs[kHeightCount];      // bfloat16 weights; Form::kPairs; only if has_pairs
  Multiply int8[2][kHeightCount];    // runs of 16, of 32; Form::kQuants
  Multiply int4[2][kHeightCount];
  Widen widen[3];
  Quantise quantise;
  bool has_pairs;
  int first_height;  // index of kHeights: larger tiles do not fit into the level's registers
  int byte_zero;     // the byte that stands for 0 in the int8 kernels: 128 if they read bytes as they are stored, else 0
};

// Each is null if the build's architecture does not have the level.
const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_vnni_kernels();
const Kernels* neon_kernels();

}  // namespace tritonode::linear
