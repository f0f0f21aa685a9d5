// One layer call, cut into pieces that threads can take. Used by the C ABI (api.cc) and by the engine (engine.cc).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels.h"
#include "punica.h"

namespace tritonode::punica {

class InterleavedB;

/// Ranks of a slice that a slot uses.
inline int used_rank(const tritonode_punica_slice& slice, int32_t slot) {
  return slice.slot_ranks ? slice.slot_ranks[slot] : slice.rank;
}

/// All of a layer call's arguments; `y` receives. Slots are the caller's to check.
struct Call {
  const tritonode_punica_slice* slices;
  int slice_count;
  const tritonode_punica_batch* batch;
  const tritonode_punica_matrix* x;    // null for an expand
  int64_t inputs;
  const tritonode_punica_matrix* y;    // null for a shrink
  const tritonode_punica_matrix* tmp;  // one for each slice; null when shrink and expand are fused
  float scale;
  bool add;
  const InterleavedB* interleaved = nullptr;  // one for each slice; null: there are none
};

/// Whether the operands are there, and sizes and types are known.
bool valid(const Call& call);

/// run() of a valid call, else TRITONODE_PUNICA_INVALID; a step without adapters does nothing, whatever the operands.
int32_t checked_run(const Call& call);

/// Runs the call: shrink and expand, or the one whose operands are there. Returns a tritonode_punica_status.
int32_t run(const Call& call) noexcept;

/// Offers [0, pieces) to the threads, one piece at a time; on this thread alone if `cost_ns` of work is too little to
/// share. Returns false if scratch memory ran out.
bool share(int64_t pieces, double cost_ns, void (*body)(int64_t piece, void* context), void* context) noexcept;
/// While one lives, this thread's calls follow each other so closely that the team still spins, so that less work than
/// otherwise is shared.
class TeamAwake {
 public:
  TeamAwake();
  ~TeamAwake();
  TeamAwake(const TeamAwake&) = delete;
  TeamAwake& operator=(const TeamAwake&) = delete;
};
/// Threads that share() may use.
int thread_count();
/// This thread's 64-byte aligned scratch for `count` floats. std::bad_alloc.
float* wide_scratch(size_t count);

inline bool valid_dtype(int32_t dtype) {
  return dtype >= TRITONODE_PUNICA_FLOAT32 && dtype <= TRITONODE_PUNICA_BFLOAT16;
}
inline int64_t element_size(int32_t dtype) { return dtype == TRITONODE_PUNICA_FLOAT32 ? 4 : 2; }

}  // namespace tritonode::punica
