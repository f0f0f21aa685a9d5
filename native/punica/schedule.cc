// Rows of one adapter are cut into blocks. A block's shrink and expand touch no other block's rows, so threads take whole
// blocks where there are enough: one parallel region, no barrier. With fewer blocks than threads (one row of a large
// model) the threads divide the ranks, and then, after a barrier, the output columns. Neither changes the order of any
// sum (see kernels.inl).
#include "schedule.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <vector>

#include "scalar.h"

namespace tritonode::punica {
namespace {

std::atomic<tritonode_punica_parallel_for> parallel_for{nullptr};
std::atomic<int> parallel_threads{1};

// Rows of a block: enough that transposing B for it is a small part of using it, few enough that tmp stays in L1/L2.
constexpr int kBlockRows = 64;
// Rough speeds of one core, to estimate whether another thread is worth waking. Bytes per ns of weights once a step
// (beyond the last cache) and multiply-adds per ns.
constexpr double kBytesPerNs = 16.0;
constexpr double kMacsPerNs = 40.0;
// A parallel region costs 1-2 us while the team still spins after the base layer, some 20 us when it sleeps.
constexpr double kParallelNs = 60'000.0;
constexpr int kRankPiece = 8;
constexpr int64_t kColumnPiece = 4 * kPanelColumns;

/// 64-byte aligned floats that only grow.
class Floats {
 public:
  ~Floats() { std::free(data_); }
  float* reserve(size_t count) {
    if (count > size_) {
      std::free(data_);
      size_ = 0;
      const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
      data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
      if (!data_) throw std::bad_alloc();
      size_ = bytes / sizeof(float);
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  size_t size_ = 0;
};

struct Scratch {
  std::vector<const void*> x, a;
  std::vector<const float*> tmp_rows;
  std::vector<void*> y;
  Floats tmp, panel;
};

Scratch& scratch() {
  thread_local Scratch instance;
  return instance;
}

// Each thread takes the next piece when it is free: with fixed shares all would wait for a thread that is descheduled.
bool share_pieces(int threads, int64_t pieces, void (*body)(int64_t, void*), void* context) noexcept {
  struct Shared {
    void (*body)(int64_t, void*);
    void* context;
    int64_t pieces;
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
  } shared{body, context, pieces, {}, {}};
  const auto work = [](int64_t, int64_t, void* all_of_them) {
    Shared& all = *static_cast<Shared*>(all_of_them);
    try {
      for (int64_t i; (i = all.next.fetch_add(1)) < all.pieces;) all.body(i, all.context);
    } catch (...) {
      all.failed.store(true);
    }
  };
  const int64_t helpers = std::min<int64_t>(threads, pieces);
  const tritonode_punica_parallel_for run = parallel_for.load();
  if (helpers > 1 && run) (void)run(0, helpers, 1, work, &shared);
  work(0, 1, &shared);  // whatever the team did not do: it may refuse, or be smaller than promised
  return !shared.failed.load();
}

struct Block {
  int32_t slot;
  const int32_t* rows;
  int32_t count;
  int32_t ranks;   // of all slices together
  int64_t tmp_at;  // first float of the block in a shared tmp
};

class Runner {
 public:
  explicit Runner(const Call& call) : call_(call), kernels_(active_kernels()) {}

  void run() {
    cut();
    if (blocks_.empty()) return;
    const int threads = thread_count();
    if (threads < 2 || cost() < kParallelNs) {
      for (const Block& block : blocks_) whole(block);
    } else if (balanced(threads)) {
      share(threads, static_cast<int64_t>(blocks_.size()), [this](int64_t i) { whole(blocks_[i]); });
    } else {
      in_two_phases(threads);
    }
  }

 private:
  void cut() {
    const tritonode_punica_batch& batch = *call_.batch;
    int64_t at = 0;
    for (int32_t g = 0; g < batch.group_count; ++g) {
      const tritonode_punica_group& group = batch.groups[g];
      int32_t ranks = 0;
      for (int s = 0; s < call_.slice_count; ++s) ranks += used_rank(call_.slices[s], group.slot);
      // A shrink into the caller's memory has to write zeros all the same, and so has an expand that overwrites.
      if (ranks == 0 && call_.x && call_.y) continue;
      for (int32_t first = 0; first < group.count; first += kBlockRows) {
        const int32_t count = std::min(kBlockRows, group.count - first);
        blocks_.push_back({group.slot, batch.rows + group.first + first, count, ranks, at});
        at += static_cast<int64_t>(count) * ranks;
      }
    }
    tmp_floats_ = at;
  }

  int64_t outputs_of(const Block& block) const {
    int64_t sum = 0;
    for (int s = 0; s < call_.slice_count; ++s)
      sum += used_rank(call_.slices[s], block.slot) * (call_.y ? call_.slices[s].outputs : 0);
    return sum;
  }

  double cost_of(const Block& block) const {
    const double weights =
        static_cast<double>(block.ranks * (call_.x ? call_.inputs : 0) + outputs_of(block));
    const double bytes = weights * static_cast<double>(element_size(call_.slices[0].weight_dtype));
    return std::max(bytes / kBytesPerNs, weights * block.count / kMacsPerNs);
  }

  double cost() const {
    double sum = 0;
    for (const Block& block : blocks_) sum += cost_of(block);
    return sum;
  }

  // Whether whole blocks keep all threads busy: the largest is no more than half of a thread's share.
  bool balanced(int threads) const {
    double sum = 0, largest = 0;
    for (const Block& block : blocks_) {
      const double cost = cost_of(block);
      sum += cost;
      largest = std::max(largest, cost);
    }
    return largest * 2 * threads <= sum;
  }

  template <class Body>
  void share(int threads, int64_t pieces, Body body) {
    if (!share_pieces(threads, pieces, [](int64_t i, void* context) { (*static_cast<Body*>(context))(i); }, &body))
      throw std::bad_alloc();
  }

  void whole(const Block& block) {
    Scratch& mine = scratch();
    float* tmp = mine.tmp.reserve(static_cast<size_t>(block.count) * std::max(block.ranks, 1));
    gather(block, tmp);
    if (call_.x) shrink(block, tmp, 0, block.ranks);
    if (call_.y) {
      int at = 0;
      for (int s = 0; s < call_.slice_count; ++s) {
        expand(block, tmp, s, at, 0, call_.slices[s].outputs);
        at += used_rank(call_.slices[s], block.slot);
      }
    }
    scatter(block, tmp);
  }

  void in_two_phases(int threads) {
    // The caller's own scratch: pieces use only its other parts.
    float* tmp = scratch().tmp.reserve(static_cast<size_t>(std::max<int64_t>(tmp_floats_, 1)));
    struct Piece {
      const Block* block;
      int slice, at;
      int64_t begin, end;
    };
    std::vector<Piece> pieces;
    if (call_.x) {
      for (const Block& block : blocks_)
        for (int r = 0; r < block.ranks; r += kRankPiece)
          pieces.push_back({&block, 0, 0, r, std::min(r + kRankPiece, block.ranks)});
      share(threads, static_cast<int64_t>(pieces.size()), [&](int64_t i) {
        const Piece& p = pieces[i];
        shrink(*p.block, tmp + p.block->tmp_at, static_cast<int>(p.begin), static_cast<int>(p.end));
      });
      pieces.clear();
    } else {
      for (const Block& block : blocks_) gather(block, tmp + block.tmp_at);
    }
    if (call_.y) {
      for (const Block& block : blocks_) {
        int at = 0;
        for (int s = 0; s < call_.slice_count; ++s) {
          for (int64_t o = 0; o < call_.slices[s].outputs; o += kColumnPiece)
            pieces.push_back({&block, s, at, o, std::min(o + kColumnPiece, call_.slices[s].outputs)});
          at += used_rank(call_.slices[s], block.slot);
        }
      }
      share(threads, static_cast<int64_t>(pieces.size()), [&](int64_t i) {
        const Piece& p = pieces[i];
        expand(*p.block, tmp + p.block->tmp_at, p.slice, p.at, p.begin, p.end);
      });
    } else {
      for (const Block& block : blocks_) scatter(block, tmp + block.tmp_at);
    }
  }

  void shrink(const Block& block, float* tmp, int begin, int end) {
    Scratch& mine = scratch();
    const int64_t size = element_size(call_.x->dtype);
    mine.x.resize(static_cast<size_t>(block.count));
    for (int t = 0; t < block.count; ++t)
      mine.x[t] = static_cast<const char*>(call_.x->data) + block.rows[t] * call_.x->row_stride * size;
    mine.a.clear();
    for (int s = 0; s < call_.slice_count; ++s) {
      const tritonode_punica_slice& slice = call_.slices[s];
      const char* a = static_cast<const char*>(slice.a);
      const int64_t bytes = element_size(slice.weight_dtype);
      for (int r = 0; r < used_rank(slice, block.slot); ++r)
        mine.a.push_back(a + (block.slot * slice.a_slot_stride + r * slice.a_row_stride) * bytes);
    }
    kernels_.shrink[call_.x->dtype][call_.slices[0].weight_dtype](mine.x.data(), block.count, mine.a.data() + begin,
                                                                   end - begin, call_.inputs, call_.scale, tmp + begin,
                                                                   block.ranks);
  }

  void expand(const Block& block, const float* tmp, int s, int at, int64_t begin, int64_t end) {
    const tritonode_punica_slice& slice = call_.slices[s];
    const int rank = used_rank(slice, block.slot);
    if (rank == 0 && call_.add) return;
    Scratch& mine = scratch();
    mine.tmp_rows.resize(static_cast<size_t>(block.count));
    mine.y.resize(static_cast<size_t>(block.count));
    const int64_t size = element_size(call_.y->dtype);
    for (int t = 0; t < block.count; ++t) {
      mine.tmp_rows[t] = tmp + static_cast<int64_t>(t) * block.ranks + at;
      mine.y[t] = static_cast<char*>(call_.y->data) +
                  (block.rows[t] * call_.y->row_stride + slice.y_offset + begin) * size;
    }
    float* panel =
        block.count > kMatvecRows ? mine.panel.reserve(static_cast<size_t>(std::max(rank, 1)) * kPanelColumns) : nullptr;
    const char* b = static_cast<const char*>(slice.b) +
                    (block.slot * slice.b_slot_stride + begin * slice.b_row_stride) * element_size(slice.weight_dtype);
    kernels_.expand[slice.weight_dtype][call_.y->dtype](mine.tmp_rows.data(), block.count, b, slice.b_row_stride, rank,
                                                        end - begin, mine.y.data(), call_.add, panel);
  }

  // The caller's tmp (any dtype, rows of the batch) into the block's own, for an expand alone.
  void gather(const Block& block, float* tmp) const {
    if (!call_.tmp || call_.x) return;
    for (int t = 0; t < block.count; ++t) {
      float* out = tmp + static_cast<int64_t>(t) * block.ranks;
      for (int s = 0; s < call_.slice_count; ++s) {
        const tritonode_punica_matrix& from = call_.tmp[s];
        const int64_t at = block.rows[t] * from.row_stride;
        const int rank = used_rank(call_.slices[s], block.slot);
        for (int r = 0; r < rank; ++r) {
          switch (from.dtype) {
            case TRITONODE_PUNICA_FLOAT32: out[r] = static_cast<const float*>(from.data)[at + r]; break;
            case TRITONODE_PUNICA_FLOAT16: out[r] = to_float(static_cast<const float16*>(from.data)[at + r]); break;
            default: out[r] = to_float(static_cast<const bfloat16*>(from.data)[at + r]); break;
          }
        }
        out += rank;
      }
    }
  }

  // The block's tmp into the caller's, unused ranks zeroed, for a shrink alone.
  void scatter(const Block& block, const float* tmp) const {
    if (!call_.tmp || call_.y) return;
    for (int t = 0; t < block.count; ++t) {
      const float* from = tmp + static_cast<int64_t>(t) * block.ranks;
      for (int s = 0; s < call_.slice_count; ++s) {
        const int rank = used_rank(call_.slices[s], block.slot);
        float* out = static_cast<float*>(call_.tmp[s].data) + block.rows[t] * call_.tmp[s].row_stride;
        std::copy(from, from + rank, out);
        std::fill(out + rank, out + call_.slices[s].rank, 0.0f);
        from += rank;
      }
    }
  }

  const Call& call_;
  const Kernels& kernels_;
  std::vector<Block> blocks_;
  int64_t tmp_floats_ = 0;
};

}  // namespace

int thread_count() { return parallel_for.load() ? parallel_threads.load() : 1; }

bool share(int64_t pieces, double cost_ns, void (*body)(int64_t, void*), void* context) noexcept {
  return share_pieces(cost_ns < kParallelNs ? 1 : thread_count(), pieces, body, context);
}

float* wide_scratch(size_t count) { return scratch().tmp.reserve(count); }

int32_t run(const Call& call) noexcept {
  try {
    Runner(call).run();
    return TRITONODE_PUNICA_OK;
  } catch (...) {
    return TRITONODE_PUNICA_NO_MEMORY;  // nothing else throws
  }
}

}  // namespace tritonode::punica

extern "C" void tritonode_punica_set_parallel(tritonode_punica_parallel_for run, int32_t threads) {
  tritonode::punica::parallel_threads.store(run && threads > 1 ? threads : 1);
  tritonode::punica::parallel_for.store(run);
}
