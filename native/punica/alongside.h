// A LoRA layer of few rows, computed by the threads of its base layer's product in the same parallel region.
//
// Alone, one row's shrink and expand are too little work for a second thread, and as much as a third of the time of a
// 4-bit base. Here threads take the pieces of the shrink first, then columns of the base; a thread adds the adapters' part
// to columns that it has just written. No sum's order changes (kernels.inl).
#pragma once

#include <atomic>
#include <utility>
#include <vector>

#include "blocks.h"

namespace tritonode::punica {

/// The A of a LoRA layer, to be brought nearer while earlier products are computed: what a shrink reads would otherwise come
/// from memory just when all threads wait for it.
class Ahead {
 public:
  /// Nothing.
  Ahead() = default;
  /// What a call reads; its x and y are not looked at. std::bad_alloc.
  explicit Ahead(const Call& call);

  /// Asks the memory for part `index` of `count` parts.
  void fetch(int64_t index, int64_t count) const;

 private:
  struct Range {
    const char* from;
    int64_t lines;
  };
  std::vector<Range> ranges_;
  int64_t lines_ = 0;
};

class Alongside {
 public:
  /// Whether a call is small enough: with more rows a region of its own costs little, and divides the work better.
  static bool suits(int64_t rows) { return rows <= kBlockRows; }

  /// Keeps its memory in this thread's scratch, which no other call of this thread may use meanwhile. std::bad_alloc.
  explicit Alongside(const Call& call);

  /// Pieces of the shrink for a parallel region to compute, before any piece that calls expand(). Of several regions the
  /// first gets them; the others find the shrink done.
  int64_t take_pieces() {
    return std::exchange(taken_, true) ? 0 : static_cast<int64_t>(pieces_.size());
  }
  /// Nanoseconds of one thread, roughly.
  double cost() const { return blocks_.cost(); }
  /// Whether rows share an adapter in numbers that make narrow columns costly.
  bool wide() const;
  /// One piece of the shrink, once.
  void shrink(int64_t piece) noexcept;
  /// Adds to columns [begin, end) of y, which hold the base's part. Waits for the shrink. std::bad_alloc, also for a piece.
  void expand(int64_t begin, int64_t end);
  /// Asks the memory for what expand() of these columns reads.
  void fetch(int64_t begin, int64_t end) const;

 private:
  struct Piece {
    const Block* block;
    int begin, end;
  };
  /// Calls do(block, slice, first rank of the slice, first column of the slice, one behind its last) for what of each
  /// slice lies in [begin, end) of y.
  template <class Do>
  void each(int64_t begin, int64_t end, Do go) const;

  const Call call_;
  const Blocks blocks_;
  std::vector<Piece> pieces_;
  float* tmp_;
  bool taken_ = false;
  std::atomic<int64_t> done_{0};
  std::atomic<bool> failed_{false};
};

}  // namespace tritonode::punica
