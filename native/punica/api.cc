// The C ABI's checks around schedule.cc, and the grouping of rows.
#include <algorithm>
#include <vector>

#include "schedule.h"

namespace tritonode::punica {

bool valid(const Call& call) {
  if (!call.slices || call.slice_count < 1 || !call.batch) return false;
  if (call.batch->group_count < 0 || (call.batch->group_count > 0 && (!call.batch->groups || !call.batch->rows)))
    return false;
  if (call.x && (!call.x->data || !valid_dtype(call.x->dtype) || call.inputs < 0)) return false;
  if (call.y && (!call.y->data || !valid_dtype(call.y->dtype))) return false;
  for (int s = 0; s < call.slice_count; ++s) {
    const tritonode_punica_slice& slice = call.slices[s];
    if (slice.rank < 0 || slice.outputs < 0 || slice.y_offset < 0) return false;
    if (!valid_dtype(slice.weight_dtype) || slice.weight_dtype != call.slices[0].weight_dtype) return false;
    if ((call.x && !slice.a) || (call.y && !slice.b)) return false;
    if (call.tmp && (!call.tmp[s].data || !valid_dtype(call.tmp[s].dtype))) return false;
  }
  return true;
}

int32_t checked_run(const Call& call) {
  // First: an empty matrix may have no memory.
  if (call.batch && call.batch->group_count == 0) return TRITONODE_PUNICA_OK;
  return valid(call) ? run(call) : TRITONODE_PUNICA_INVALID;
}

namespace {

/// Whether any of `count` elements is other than +0 or -0.
template <class Bits>
bool any_nonzero(const Bits* p, int64_t count) {
  constexpr Bits magnitude = static_cast<Bits>(static_cast<Bits>(~Bits{0}) >> 1);
  Bits seen = 0;
  for (int64_t i = 0; i < count; ++i) seen = static_cast<Bits>(seen | (p[i] & magnitude));
  return seen != 0;
}

template <class Bits>
int32_t used_rank_of(const tritonode_punica_slice& slice, int64_t inputs, int32_t slot) {
  int32_t used = slice.rank;
  if (slice.a) {
    const Bits* a = static_cast<const Bits*>(slice.a) + slot * slice.a_slot_stride;
    while (used > 0 && !any_nonzero(a + (used - 1) * slice.a_row_stride, inputs)) --used;
  }
  if (slice.b && used > 0) {
    const Bits* b = static_cast<const Bits*>(slice.b) + slot * slice.b_slot_stride;
    int32_t columns = 0;
    for (int64_t o = 0; o < slice.outputs && columns < used; ++o) {
      const Bits* row = b + o * slice.b_row_stride;
      if (!any_nonzero(row + columns, used - columns)) continue;
      int32_t last = used;
      while (!any_nonzero(row + last - 1, 1)) --last;
      columns = last;
    }
    used = columns;
  }
  return used;
}

}  // namespace
}  // namespace tritonode::punica

using namespace tritonode::punica;

extern "C" {

int32_t tritonode_punica_group_rows(const int64_t* slots, int64_t count, int32_t slot_count, int32_t* rows,
                                    tritonode_punica_group* groups, int32_t* row_count) {
  if (count < 0 || slot_count < 0 || !row_count) return -1;
  *row_count = 0;
  std::vector<int32_t> of_slot;
  try {
    of_slot.assign(static_cast<size_t>(slot_count), 0);
  } catch (...) {
    return -1;
  }
  for (int64_t i = 0; i < count; ++i) {
    if (slots[i] >= slot_count) return -1;
    if (slots[i] >= 0) ++of_slot[static_cast<size_t>(slots[i])];
  }
  int32_t group_count = 0, first = 0;
  for (int32_t slot = 0; slot < slot_count; ++slot) {
    const int32_t here = of_slot[static_cast<size_t>(slot)];
    if (here == 0) continue;
    groups[group_count++] = {slot, first, here};
    of_slot[static_cast<size_t>(slot)] = first;  // from here on: where the slot's next row goes
    first += here;
  }
  for (int64_t i = 0; i < count; ++i)
    if (slots[i] >= 0) rows[of_slot[static_cast<size_t>(slots[i])]++] = static_cast<int32_t>(i);
  *row_count = first;
  return group_count;
}

int32_t tritonode_punica_linear(const tritonode_punica_slice* slices, int32_t slice_count,
                                const tritonode_punica_batch* batch, const tritonode_punica_matrix* x, int64_t inputs,
                                const tritonode_punica_matrix* y, float scale) {
  if (!x || !y) return TRITONODE_PUNICA_INVALID;
  return checked_run({slices, slice_count, batch, x, inputs, y, nullptr, scale, true});
}

int32_t tritonode_punica_shrink(const tritonode_punica_slice* slices, int32_t slice_count,
                                const tritonode_punica_batch* batch, const tritonode_punica_matrix* x, int64_t inputs,
                                const tritonode_punica_matrix* tmp, float scale) {
  if (!x || !tmp) return TRITONODE_PUNICA_INVALID;
  for (int32_t s = 0; s < slice_count; ++s)
    if (tmp[s].dtype != TRITONODE_PUNICA_FLOAT32) return TRITONODE_PUNICA_INVALID;
  return checked_run({slices, slice_count, batch, x, inputs, nullptr, tmp, scale, true});
}

int32_t tritonode_punica_expand(const tritonode_punica_slice* slices, int32_t slice_count,
                                const tritonode_punica_batch* batch, const tritonode_punica_matrix* tmp,
                                const tritonode_punica_matrix* y, int32_t add) {
  if (!tmp || !y) return TRITONODE_PUNICA_INVALID;
  return checked_run({slices, slice_count, batch, nullptr, 0, y, tmp, 1.0f, add != 0});
}

int32_t tritonode_punica_rms_norm(const tritonode_punica_matrix* x, int64_t rows, int64_t columns,
                                  const tritonode_punica_matrix* residual, const void* weight,
                                  const tritonode_punica_matrix* out, float epsilon) {
  if (!x || !out || !weight || rows < 0 || columns < 1 || !valid_dtype(x->dtype) || out->dtype != x->dtype ||
      (residual && residual->dtype != x->dtype))
    return TRITONODE_PUNICA_INVALID;
  struct Rows {
    const tritonode_punica_matrix *x, *residual, *out;
    const void* weight;
    int64_t rows, columns;
    float epsilon;
  } all{x, residual, out, weight, rows, columns, epsilon};
  constexpr int64_t kPiece = 16;
  const auto piece = [](int64_t index, void* context) {
    const Rows& of = *static_cast<const Rows*>(context);
    const int64_t size = element_size(of.x->dtype);
    const auto row = [size](const tritonode_punica_matrix& m, int64_t i) {
      return static_cast<char*>(m.data) + i * m.row_stride * size;
    };
    float* wide = wide_scratch(static_cast<size_t>(of.columns));
    const int64_t end = std::min(of.rows, (index + 1) * kPiece);
    for (int64_t i = index * kPiece; i < end; ++i)
      active_kernels().norm[of.x->dtype](row(*of.x, i), of.residual ? row(*of.residual, i) : nullptr, of.weight,
                                         row(*of.out, i), of.columns, of.epsilon, wide);
  };
  // About four passes over the row at some 10 elements a nanosecond.
  const double cost = static_cast<double>(rows * columns) * 0.1;
  return share((rows + kPiece - 1) / kPiece, cost, piece, &all) ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_NO_MEMORY;
}

int32_t tritonode_punica_silu_and_mul(const tritonode_punica_matrix* x, int64_t rows, int64_t n,
                                      const tritonode_punica_matrix* out) {
  if (!x || !out || rows < 0 || n < 0 || !valid_dtype(x->dtype) || out->dtype != x->dtype)
    return TRITONODE_PUNICA_INVALID;
  struct Rows {
    const tritonode_punica_matrix *x, *out;
    int64_t rows, n;
  } all{x, out, rows, n};
  constexpr int64_t kPiece = 8;
  const auto piece = [](int64_t index, void* context) {
    const Rows& of = *static_cast<const Rows*>(context);
    const int64_t size = element_size(of.x->dtype);
    const int64_t end = std::min(of.rows, (index + 1) * kPiece);
    for (int64_t i = index * kPiece; i < end; ++i) {
      const char* gate = static_cast<const char*>(of.x->data) + i * of.x->row_stride * size;
      char* to = static_cast<char*>(of.out->data) + i * of.out->row_stride * size;
      active_kernels().silu_mul[of.x->dtype](gate, gate + of.n * size, to, of.n);
    }
  };
  const double cost = static_cast<double>(rows * n) * 0.4;  // some 25 instructions for 16 elements
  return share((rows + kPiece - 1) / kPiece, cost, piece, &all) ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_NO_MEMORY;
}

int32_t tritonode_punica_rope(const tritonode_punica_matrix* x, int64_t rows, int64_t columns,
                              const int64_t* positions, const tritonode_punica_matrix* cos_sin, int64_t position_count,
                              int64_t head_size) {
  if (!x || !positions || !cos_sin || rows < 0 || head_size < 2 || head_size % 2 != 0 || columns % head_size != 0 ||
      !valid_dtype(x->dtype) || cos_sin->dtype != x->dtype)
    return TRITONODE_PUNICA_INVALID;
  for (int64_t i = 0; i < rows; ++i)
    if (positions[i] < 0 || positions[i] >= position_count) return TRITONODE_PUNICA_INVALID;
  struct Rows {
    const tritonode_punica_matrix *x, *cos_sin;
    const int64_t* positions;
    int64_t rows, columns, head_size;
  } all{x, cos_sin, positions, rows, columns, head_size};
  constexpr int64_t kPiece = 16;
  const auto piece = [](int64_t index, void* context) {
    const Rows& of = *static_cast<const Rows*>(context);
    const int64_t size = element_size(of.x->dtype);
    const int64_t end = std::min(of.rows, (index + 1) * kPiece);
    for (int64_t i = index * kPiece; i < end; ++i) {
      char* row = static_cast<char*>(of.x->data) + i * of.x->row_stride * size;
      const char* angles = static_cast<const char*>(of.cos_sin->data) + of.positions[i] * of.cos_sin->row_stride * size;
      for (int64_t at = 0; at < of.columns; at += of.head_size)
        active_kernels().rope[of.x->dtype](row + at * size, angles, of.head_size / 2);
    }
  };
  const double cost = static_cast<double>(rows * columns) * 0.3;
  return share((rows + kPiece - 1) / kPiece, cost, piece, &all) ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_NO_MEMORY;
}

int32_t tritonode_punica_used_rank(const tritonode_punica_slice* slice, int64_t inputs, int32_t slot) {
  if (!slice || slot < 0 || !valid_dtype(slice->weight_dtype)) return 0;
  return element_size(slice->weight_dtype) == 4 ? used_rank_of<uint32_t>(*slice, inputs, slot)
                                                : used_rank_of<uint16_t>(*slice, inputs, slot);
}

}  // extern "C"
