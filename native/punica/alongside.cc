#include "alongside.h"

#include <algorithm>
#include <new>
#include <thread>

#include "interleaved.h"
#include "scratch.h"

namespace tritonode::punica {
namespace {

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr int64_t kLine = 64;

}  // namespace

Ahead::Ahead(const Call& call) {
  for (int32_t g = 0; g < call.batch->group_count; ++g) {
    const int32_t slot = call.batch->groups[g].slot;
    for (int s = 0; s < call.slice_count; ++s) {
      const tritonode_punica_slice& slice = call.slices[s];
      const int64_t size = element_size(slice.weight_dtype), ranks = used_rank(slice, slot);
      const char* a = static_cast<const char*>(slice.a) + slot * slice.a_slot_stride * size;
      if (ranks == 0 || slice.a_row_stride != call.inputs) continue;
      ranges_.push_back({a, (ranks * call.inputs * size + kLine - 1) / kLine});
      lines_ += ranges_.back().lines;
    }
  }
}

void Ahead::fetch(int64_t index, int64_t count) const {
  int64_t first = lines_ * index / count, last = lines_ * (index + 1) / count;
  for (const Range& range : ranges_) {
    if (last <= 0) return;
    for (int64_t line = std::max<int64_t>(first, 0); line < std::min(last, range.lines); ++line)
      __builtin_prefetch(range.from + line * kLine, 0, 2);
    first -= range.lines;
    last -= range.lines;
  }
}

Alongside::Alongside(const Call& call) : call_(call), blocks_(call_) {
  for (const Block& block : blocks_.all())
    for (int r = 0; r < block.ranks; r += kRankPiece) pieces_.push_back({&block, r, std::min(r + kRankPiece, block.ranks)});
  tmp_ = scratch().tmp.reserve(static_cast<size_t>(std::max<int64_t>(blocks_.tmp_floats(), 1)));
}

bool Alongside::wide() const {
  return std::any_of(blocks_.all().begin(), blocks_.all().end(),
                     [](const Block& block) { return block.count > kMatvecRows; });
}

void Alongside::shrink(int64_t piece) noexcept {
  const Piece& of = pieces_[static_cast<size_t>(piece)];
  try {
    blocks_.shrink(*of.block, tmp_ + of.block->tmp_at, of.begin, of.end);
  } catch (...) {
    failed_.store(true, std::memory_order_relaxed);
  }
  done_.fetch_add(1, std::memory_order_release);
}

template <class Do>
void Alongside::each(int64_t begin, int64_t end, Do go) const {
  for (const Block& block : blocks_.all()) {
    int at = 0;
    for (int s = 0; s < call_.slice_count; ++s) {
      const tritonode_punica_slice& slice = call_.slices[s];
      const int64_t first = std::max<int64_t>(begin - slice.y_offset, 0);
      const int64_t last = std::min(end - slice.y_offset, slice.outputs);
      const int ranks = used_rank(slice, block.slot);
      if (first < last && ranks > 0) go(block, s, at, first, last);
      at += ranks;
    }
  }
}

void Alongside::expand(int64_t begin, int64_t end) {
  // The pieces are being computed by threads that wait for nothing. One may have lost its CPU.
  for (int turn = 0; done_.load(std::memory_order_acquire) < static_cast<int64_t>(pieces_.size()); ++turn) {
    if (turn < 1000) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
  if (failed_.load(std::memory_order_relaxed)) throw std::bad_alloc();
  each(begin, end, [this](const Block& block, int s, int at, int64_t first, int64_t last) {
    blocks_.expand(block, tmp_ + block.tmp_at, s, at, first, last);
  });
}

void Alongside::fetch(int64_t begin, int64_t end) const {
  each(begin, end, [this](const Block& block, int s, int, int64_t first, int64_t last) {
    const tritonode_punica_slice& slice = call_.slices[s];
    if (call_.interleaved) {
      if (const char* copy = call_.interleaved[s].find(slice, block.slot, first)) {
        const int64_t panels = (last - first + kInterleavedOutputs - 1) / kInterleavedOutputs;
        const int64_t bytes = panels * interleaved_panel_bytes(slice.weight_dtype, used_rank(slice, block.slot));
        for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(copy + i);
        return;
      }
    }
    const int64_t size = element_size(slice.weight_dtype), used = used_rank(slice, block.slot) * size;
    const char* b = static_cast<const char*>(slice.b) + block.slot * slice.b_slot_stride * size;
    if (slice.b_row_stride * size == used) {
      for (int64_t i = first * used; i < last * used; i += kLine) __builtin_prefetch(b + i);
    } else {
      for (int64_t o = first; o < last; ++o)
        for (int64_t i = 0; i < used; i += kLine) __builtin_prefetch(b + o * slice.b_row_stride * size + i);
    }
  });
}

}  // namespace tritonode::punica
