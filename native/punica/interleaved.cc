#include "interleaved.h"

namespace tritonode::punica {
namespace {

template <class Bits>
void interleave(const tritonode_punica_slice& slice, int32_t slot, int rank, Bits* to) {
  constexpr int step = ranks_of_line(sizeof(Bits));
  const Bits* b = static_cast<const Bits*>(slice.b) + slot * slice.b_slot_stride;
  for (int64_t first = 0; first < slice.outputs; first += kInterleavedOutputs) {
    for (int j = 0; j < rank; j += step) {
      for (int64_t o = first; o < first + kInterleavedOutputs; ++o)
        for (int k = j; k < j + step; ++k) *to++ = o < slice.outputs && k < rank ? b[o * slice.b_row_stride + k] : 0;
    }
  }
}

}  // namespace

int64_t interleaved_panel_bytes(int32_t dtype, int rank) {
  return lines_of_panel(element_size(dtype), rank) * kInterleavedOutputs * 4;
}

void InterleavedB::assign(const tritonode_punica_slice& slice, int32_t slot, int rank) noexcept {
  Copy& copy = slots_[static_cast<size_t>(slot)];
  copy.data = nullptr;
  if (rank == 0 || !slice.b) return copy.memory.trim(0);
  const int64_t panels = (slice.outputs + kInterleavedOutputs - 1) / kInterleavedOutputs;
  try {
    char* data = copy.memory.reserve(static_cast<size_t>(panels * interleaved_panel_bytes(slice.weight_dtype, rank)));
    if (element_size(slice.weight_dtype) == 4) {
      interleave(slice, slot, rank, reinterpret_cast<uint32_t*>(data));
    } else {
      interleave(slice, slot, rank, reinterpret_cast<uint16_t*>(data));
    }
    copy.data = data;
  } catch (...) {
    copy.memory.trim(0);
  }
}

const char* InterleavedB::find(const tritonode_punica_slice& slice, int32_t slot, int64_t output) const {
  const char* data = slots_[static_cast<size_t>(slot)].data;
  if (!data || output % kInterleavedOutputs != 0) return nullptr;
  return data + output / kInterleavedOutputs * interleaved_panel_bytes(slice.weight_dtype, used_rank(slice, slot));
}

}  // namespace tritonode::punica
