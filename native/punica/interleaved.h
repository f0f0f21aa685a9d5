// Copies of a layer's B in the order in which an expand reads them.
//
// B is [outputs, ranks], and an expand has one lane for each output: from B as it is, it must transpose at every step. A
// copy has, for each 16 outputs, a line of 64 bytes for each rank (float32) or for each two ranks (16 bits: 16 pairs; the
// second of a pair is 0 behind an odd rank), so that it is read from the first to the last byte. It takes as much memory as
// the ranks of B that are in use.
#pragma once

#include <vector>

#include "../common/memory.h"
#include "schedule.h"

namespace tritonode::punica {

/// Bytes of a copy for 16 outputs.
int64_t interleaved_panel_bytes(int32_t dtype, int rank);

/// One slice's copies, by slot.
class InterleavedB {
 public:
  /// std::bad_alloc.
  explicit InterleavedB(int32_t slot_count) : slots_(static_cast<size_t>(slot_count)) {}

  /// Copies a slot's B, of so many ranks; 0 frees its copy. Without memory there is no copy, and B itself is used.
  void assign(const tritonode_punica_slice& slice, int32_t slot, int rank) noexcept;
  /// A slot's copy, from the panel that begins with `output`; null if there is none, or if no panel begins there.
  const char* find(const tritonode_punica_slice& slice, int32_t slot, int64_t output) const;

 private:
  struct Copy {
    Memory memory;
    const char* data = nullptr;
  };
  std::vector<Copy> slots_;
};

}  // namespace tritonode::punica
