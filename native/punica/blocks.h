// A LoRA layer call, cut into blocks: rows of one adapter. A block's shrink and expand touch no other block's rows.
#pragma once

#include <vector>

#include "schedule.h"

namespace tritonode::punica {

/// Rows of a block: enough that transposing B for it is a small part of using it, few enough that tmp stays in L1/L2.
inline constexpr int kBlockRows = 64;
/// Ranks and output columns of a block that a thread takes at a time, where threads divide a block.
inline constexpr int kRankPiece = 8;
inline constexpr int64_t kColumnPiece = 4 * kPanelColumns;

struct Block {
  int32_t slot;
  const int32_t* rows;
  int32_t count;
  int32_t ranks;   // of all slices together
  int64_t tmp_at;  // first float of the block in a shared tmp
};

/// The blocks of a call, and what is computed of each. Every function may run on any thread.
class Blocks {
 public:
  /// std::bad_alloc.
  explicit Blocks(const Call& call);

  const std::vector<Block>& all() const { return blocks_; }
  /// Floats of a tmp that all blocks share.
  int64_t tmp_floats() const { return tmp_floats_; }
  /// Nanoseconds of one thread, roughly.
  double cost_of(const Block& block) const;
  double cost() const;

  /// tmp[t, r] = scale * x[t] . A[r]^T for the block's rows and its ranks [begin, end). std::bad_alloc.
  void shrink(const Block& block, float* tmp, int begin, int end) const;
  /// y[t, o] (+)= tmp[t, at:] . B[o]^T for columns [begin, end) of slice s, whose ranks begin at `at`. std::bad_alloc.
  void expand(const Block& block, const float* tmp, int s, int at, int64_t begin, int64_t end) const;
  /// The caller's tmp (any dtype, rows of the batch) into the block's own, for an expand alone.
  void gather(const Block& block, float* tmp) const;
  /// The block's tmp into the caller's, unused ranks zeroed, for a shrink alone.
  void scatter(const Block& block, const float* tmp) const;

 private:
  int64_t outputs_of(const Block& block) const;

  const Call& call_;
  const Kernels& kernels_;
  std::vector<Block> blocks_;
  int64_t tmp_floats_ = 0;
};

}  // namespace tritonode::punica
