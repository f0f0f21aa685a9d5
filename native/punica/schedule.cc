// Rows of one adapter are cut into blocks. A block's shrink and expand touch no other block's rows, so threads take whole
// blocks where there are enough: one parallel region, no barrier. With fewer blocks than threads (one row of a large
// model) the threads divide the ranks, and then, after a barrier, the output columns. Neither changes the order of any
// sum (see kernels.inl).
#include "schedule.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#include "blocks.h"
#include "scratch.h"

namespace tritonode::punica {
namespace {

std::atomic<tritonode_punica_parallel_for> parallel_for{nullptr};
std::atomic<int> parallel_threads{1};

// A parallel region costs 1-2 us while the team still spins after the base layer, some 20 us when it sleeps.
constexpr double kParallelNs = 60'000.0, kAwakeNs = 8'000.0;
thread_local double parallel_ns = kParallelNs;

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

class Runner {
 public:
  explicit Runner(const Call& call) : call_(call), blocks_(call) {}

  void run() {
    const std::vector<Block>& all = blocks_.all();
    if (all.empty()) return;
    const int threads = thread_count();
    if (threads < 2 || blocks_.cost() < parallel_ns) {
      for (const Block& block : all) whole(block);
    } else if (balanced(threads)) {
      share(threads, static_cast<int64_t>(all.size()), [this, &all](int64_t i) { whole(all[i]); });
    } else {
      in_two_phases(threads);
    }
  }

 private:
  // Whether whole blocks keep all threads busy: the largest is no more than half of a thread's share.
  bool balanced(int threads) const {
    double sum = 0, largest = 0;
    for (const Block& block : blocks_.all()) {
      const double cost = blocks_.cost_of(block);
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
    blocks_.gather(block, tmp);
    if (call_.x) blocks_.shrink(block, tmp, 0, block.ranks);
    if (call_.y) {
      int at = 0;
      for (int s = 0; s < call_.slice_count; ++s) {
        blocks_.expand(block, tmp, s, at, 0, call_.slices[s].outputs);
        at += used_rank(call_.slices[s], block.slot);
      }
    }
    blocks_.scatter(block, tmp);
  }

  void in_two_phases(int threads) {
    // The caller's own scratch: pieces use only its other parts.
    float* tmp = scratch().tmp.reserve(static_cast<size_t>(std::max<int64_t>(blocks_.tmp_floats(), 1)));
    struct Piece {
      const Block* block;
      int slice, at;
      int64_t begin, end;
    };
    std::vector<Piece> pieces;
    if (call_.x) {
      for (const Block& block : blocks_.all())
        for (int r = 0; r < block.ranks; r += kRankPiece)
          pieces.push_back({&block, 0, 0, r, std::min(r + kRankPiece, block.ranks)});
      share(threads, static_cast<int64_t>(pieces.size()), [&](int64_t i) {
        const Piece& p = pieces[i];
        blocks_.shrink(*p.block, tmp + p.block->tmp_at, static_cast<int>(p.begin), static_cast<int>(p.end));
      });
      pieces.clear();
    } else {
      for (const Block& block : blocks_.all()) blocks_.gather(block, tmp + block.tmp_at);
    }
    if (call_.y) {
      for (const Block& block : blocks_.all()) {
        int at = 0;
        for (int s = 0; s < call_.slice_count; ++s) {
          for (int64_t o = 0; o < call_.slices[s].outputs; o += kColumnPiece)
            pieces.push_back({&block, s, at, o, std::min(o + kColumnPiece, call_.slices[s].outputs)});
          at += used_rank(call_.slices[s], block.slot);
        }
      }
      share(threads, static_cast<int64_t>(pieces.size()), [&](int64_t i) {
        const Piece& p = pieces[i];
        blocks_.expand(*p.block, tmp + p.block->tmp_at, p.slice, p.at, p.begin, p.end);
      });
    } else {
      for (const Block& block : blocks_.all()) blocks_.scatter(block, tmp + block.tmp_at);
    }
  }

  const Call& call_;
  const Blocks blocks_;
};

}  // namespace

int thread_count() { return parallel_for.load() ? parallel_threads.load() : 1; }

bool share(int64_t pieces, double cost_ns, void (*body)(int64_t, void*), void* context) noexcept {
  return share_pieces(cost_ns < parallel_ns ? 1 : thread_count(), pieces, body, context);
}

TeamAwake::TeamAwake() { parallel_ns = kAwakeNs; }
TeamAwake::~TeamAwake() { parallel_ns = kParallelNs; }

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
