#include "blocks.h"

#include <algorithm>

#include "interleaved.h"
#include "scalar.h"
#include "scratch.h"

namespace tritonode::punica {
namespace {

// Rough speeds of one core, to estimate whether another thread is worth waking. Bytes per ns of weights once a step
// (beyond the last cache) and multiply-adds per ns.
constexpr double kBytesPerNs = 16.0;
constexpr double kMacsPerNs = 40.0;

}  // namespace

Scratch& scratch() {
  thread_local Scratch instance;
  return instance;
}

Blocks::Blocks(const Call& call) : call_(call), kernels_(active_kernels()) {
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

int64_t Blocks::outputs_of(const Block& block) const {
  int64_t sum = 0;
  for (int s = 0; s < call_.slice_count; ++s)
    sum += used_rank(call_.slices[s], block.slot) * (call_.y ? call_.slices[s].outputs : 0);
  return sum;
}

double Blocks::cost_of(const Block& block) const {
  const double weights =
      static_cast<double>(block.ranks * (call_.x ? call_.inputs : 0) + outputs_of(block));
  const double bytes = weights * static_cast<double>(element_size(call_.slices[0].weight_dtype));
  return std::max(bytes / kBytesPerNs, weights * block.count / kMacsPerNs);
}

double Blocks::cost() const {
  double sum = 0;
  for (const Block& block : blocks_) sum += cost_of(block);
  return sum;
}

void Blocks::shrink(const Block& block, float* tmp, int begin, int end) const {
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

void Blocks::expand(const Block& block, const float* tmp, int s, int at, int64_t begin, int64_t end) const {
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
  if (call_.interleaved) {
    if (const char* copy = call_.interleaved[s].find(slice, block.slot, begin))
      return kernels_.expand_interleaved[slice.weight_dtype][call_.y->dtype](
          mine.tmp_rows.data(), block.count, copy, rank, end - begin, mine.y.data(), call_.add, panel);
  }
  const char* b = static_cast<const char*>(slice.b) +
                  (block.slot * slice.b_slot_stride + begin * slice.b_row_stride) * element_size(slice.weight_dtype);
  kernels_.expand[slice.weight_dtype][call_.y->dtype](mine.tmp_rows.data(), block.count, b, slice.b_row_stride, rank,
                                                      end - begin, mine.y.data(), call_.add, panel);
}

void Blocks::gather(const Block& block, float* tmp) const {
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

void Blocks::scatter(const Block& block, const float* tmp) const {
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

}  // namespace tritonode::punica
