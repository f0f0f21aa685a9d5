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
  kQuantPairs,  // likewise; of each four inputs first 0 and 2, then 1 and 3; and for each run Tile::sum
  kQuants,  // four int8 in 32 bits, and for each run the constants of Tile; of 16-bit activations a step has the higher
            // parts of all rows, then the lower ones
  kWords    // two int16 in 32 bits, in kQuantPairs' order, and for each run the constants of Tile
};

/// Some rows of x, in a form.
struct Tile {
  const void* x;
  const float* scale;       // kQuants: [runs][height], the scale of x's quants
  const float* sum;         // kQuants: [runs][height], the run's sum of quants, times the scale; kQuantPairs: of x
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
  int32_t zero;             // kQuantPairs: what is stored for zero
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

/// The sum of each run of a row of x, whose elements are padded with zeros to whole runs.
using SumRuns = void (*)(const float* x, int64_t runs, int run, float* sum);
/// A row of x of n elements as float32, padded with zeros to `padded`.
using Widen = void (*)(const void* x, int64_t n, int64_t padded, float* out);
/// A row as whole numbers in runs: scale[runs], the sum of each run's numbers, and the numbers in quants[padded], int8 or
/// int16. As int8, numbers of 16 bits are 128 * quants[i] + quants[padded + i]. In 64-byte aligned memory.
using Quantise = void (*)(const float* x, int64_t runs, int run, void* quants, float* scale, int32_t* sum);

struct Kernels {
  Multiply floats[3][kHeightCount];  // by the weights' kind; Form::kFloats
  Multiply pairs[kHeightCount];      // bfloat16 weights; Form::kPairs; only if has_pairs
  // 8-bit and 4-bit weights; runs of 16, of 32; Form::kQuantPairs; only if has_pairs
  Multiply quant_pairs[2][2][kHeightCount];
  Multiply int8[2][2][kHeightCount];  // activations of 8 bits, of 16; runs of 16, of 32; kQuants, or kWords if has_words
  Multiply int4[2][2][kHeightCount];
  Widen widen[3];
  SumRuns sum_runs;
  Quantise quantise[2][2];  // as int8, as int16; to 8 bits, to 16
  bool has_pairs, has_words;
  // Indices of kHeights: larger tiles do not fit into the level's registers. Of float kinds, of quants, and of quants with
  // 16-bit activations as two int8.
  int first_float_height, first_height, first_wide_height;
  int byte_zero;     // the byte that stands for 0 in the int8 kernels: 128 if they read bytes as they are stored, else 0
};

// Each is null if the build's architecture does not have the level.
const Kernels* portable_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_vnni_kernels();
const Kernels* neon_kernels();

}  // namespace tritonode::linear
