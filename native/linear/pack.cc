// Converts between plain matrices of weights and packed buffers (packed.h).
#include <algorithm>
#include <atomic>
#include <cmath>

#include "../punica/scalar.h"
#include "../punica/schedule.h"
#include "packed.h"

namespace tritonode::linear {
namespace {

using punica::bfloat16;
using punica::float16;
using punica::from_float;
using punica::to_float;

bool fits_half(const float* values, int64_t count) {
  return std::all_of(values, values + count, [](float v) {
    float16 half;
    from_float(v, half);
    return to_float(half) == v;
  });
}

/// Whether every minimum is -zero times its scale, for one whole zero that an element of the kind could have.
bool one_zero(const tritonode_linear_source& source, int64_t count, int32_t& zero) {
  const int low = source.kind == TRITONODE_LINEAR_INT4 ? 0 : -128, high = source.kind == TRITONODE_LINEAR_INT4 ? 15 : 127;
  int64_t at = 0;
  while (at < count && source.scales[at] == 0.0f) ++at;
  if (at == count) return std::all_of(source.minimums, source.minimums + count, [](float v) { return v == 0.0f; });
  const float wanted = std::nearbyint(-source.minimums[at] / source.scales[at]);
  if (!(wanted >= static_cast<float>(low) && wanted <= static_cast<float>(high))) return false;
  for (int64_t i = 0; i < count; ++i)
    if (source.minimums[i] != -wanted * source.scales[i]) return false;
  zero = static_cast<int32_t>(wanted);
  return true;
}

bool make_head(const tritonode_linear_source* source, Head& head) {
  if (!source || source->outputs < 1 || source->inputs < 1 || source->row_stride < source->inputs) return false;
  head = {};
  std::memcpy(head.magic, kMagic, sizeof(kMagic));
  head.version = TRITONODE_LINEAR_ABI;
  head.kind = source->kind;
  head.outputs = source->outputs;
  head.inputs = source->inputs;
  head.run = 4;
  if (quantised(source->kind)) {
    if (!source->scales || source->group < 1) return false;
    head.activation_bits = source->activation_bits == 0 ? 8 : source->activation_bits;
    head.group = std::min(source->group, source->inputs);
    head.run = head.group == head.inputs || head.group % 32 == 0 ? 32 : 16;
    if (head.group < head.inputs && head.group % head.run != 0) return false;
    const int64_t groups = (head.inputs + head.group - 1) / head.group, count = groups * head.outputs;
    head.scale_bits = fits_half(source->scales, count) ? 16 : 32;
    if (source->minimums && !one_zero(*source, count, head.zero))
      head.minimum_bits = fits_half(source->minimums, count) ? 16 : 32;
  }
  if (head.kind < 0 || head.kind > TRITONODE_LINEAR_INT4) return false;
  head.bytes = Layout(head).bytes;
  return valid(head);
}

struct Packing {
  const tritonode_linear_source& source;
  const Head& head;
  Layout layout;
  uint8_t* packed;
  std::atomic<bool> refused{false};

  int64_t lanes(int64_t block) const { return std::min<int64_t>(kLanes, head.outputs - block * kLanes); }

  template <class W>
  void plain(int64_t block, int64_t pair) const {
    W* to = reinterpret_cast<W*>(packed + TRITONODE_LINEAR_HEADER_BYTES + block * layout.block_bytes);
    std::memset(to, 0, static_cast<size_t>(layout.block_bytes));
    for (int64_t n = 0; n < lanes(block); ++n) {
      const W* from = static_cast<const W*>(source.data) + (block * kLanes + n) * source.row_stride;
      for (int64_t k = 0; k < head.inputs; ++k) to[k / pair * pair * kLanes + n * pair + k % pair] = from[k];
    }
  }

  void bytes(int64_t block) const {
    uint8_t* to = packed + TRITONODE_LINEAR_HEADER_BYTES + block * layout.block_bytes;
    std::memset(to, 128, static_cast<size_t>(layout.block_bytes));
    for (int64_t n = 0; n < lanes(block); ++n) {
      const uint8_t* from = static_cast<const uint8_t*>(source.data) + (block * kLanes + n) * source.row_stride;
      for (int64_t k = 0; k < head.inputs; ++k)
        to[k / 4 * 4 * kLanes + n * 4 + k % 4] = static_cast<uint8_t>(from[k] ^ 0x80u);
    }
  }

  void nibbles(int64_t block) {
    uint8_t* to = packed + TRITONODE_LINEAR_HEADER_BYTES + block * layout.block_bytes;
    std::memset(to, 0, static_cast<size_t>(layout.block_bytes));
    const int64_t half = head.run / 2;
    uint8_t seen = 0;
    for (int64_t n = 0; n < lanes(block); ++n) {
      const uint8_t* from = static_cast<const uint8_t*>(source.data) + (block * kLanes + n) * source.row_stride;
      for (int64_t k = 0; k < head.inputs; ++k) {
        const int64_t run = k / head.run, in_run = k % head.run, place = in_run % half;
        seen |= from[k];
        to[run * half * kLanes + place / 4 * 4 * kLanes + n * 4 + place % 4] |=
            static_cast<uint8_t>((from[k] & 15u) << (in_run < half ? 0 : 4));
      }
    }
    if (seen > 15) refused.store(true);
  }

  void constants(int64_t block, const float* values, int64_t at, int64_t block_bytes, int32_t bits) const {
    if (bits == 0) return;
    uint8_t* to = packed + at + block * block_bytes;
    std::memset(to, 0, static_cast<size_t>(block_bytes));
    for (int64_t n = 0; n < lanes(block); ++n) {
      const float* from = values + (block * kLanes + n) * layout.groups;
      for (int64_t g = 0; g < layout.groups; ++g) {
        if (bits == 32) {
          reinterpret_cast<float*>(to)[g * kLanes + n] = from[g];
        } else {
          from_float(from[g], reinterpret_cast<float16*>(to)[g * kLanes + n]);
        }
      }
    }
  }

  void pack(int64_t block) {
    switch (head.kind) {
      case TRITONODE_LINEAR_FLOAT32: plain<float>(block, 1); break;
      case TRITONODE_LINEAR_FLOAT16: plain<float16>(block, 1); break;
      case TRITONODE_LINEAR_BFLOAT16: plain<bfloat16>(block, 2); break;
      case TRITONODE_LINEAR_INT8: bytes(block); break;
      default: nibbles(block); break;
    }
    constants(block, source.scales, layout.scales_at, layout.block_scale_bytes, head.scale_bits);
    constants(block, source.minimums, layout.minimums_at, layout.block_minimum_bytes, head.minimum_bits);
  }
};

float constant(const uint8_t* section, int64_t index, int32_t bits) {
  return bits == 32 ? reinterpret_cast<const float*>(section)[index]
                    : to_float(reinterpret_cast<const float16*>(section)[index]);
}

/// Reads the values of single rows.
class Unpacking {
 public:
  Unpacking(const void* packed, const Head& head)
      : packed_(static_cast<const uint8_t*>(packed)), head_(head), layout_(head) {}

  /// The inputs of row n, to out.
  void row(int64_t n, float* out) const {
    const int64_t block = n / kLanes, lane = n % kLanes;
    const uint8_t* weights = packed_ + TRITONODE_LINEAR_HEADER_BYTES + block * layout_.block_bytes;
    if (!quantised(head_.kind)) {
      for (int64_t k = 0; k < head_.inputs; ++k) out[k] = plain(weights, k, lane);
      return;
    }
    for (int64_t g = 0, k = 0; k < head_.inputs; ++g) {
      const int64_t at = (block * layout_.groups + g) * kLanes + lane;
      const float scale = constant(packed_ + layout_.scales_at, at, head_.scale_bits);
      const float minimum =
          head_.minimum_bits == 0 ? 0.0f : constant(packed_ + layout_.minimums_at, at, head_.minimum_bits);
      for (const int64_t end = std::min(k + head_.group, head_.inputs); k < end; ++k) {
        const float value = scale * static_cast<float>(quant(weights, k, lane) - head_.zero);
        out[k] = head_.minimum_bits == 0 ? value : value + minimum;
      }
    }
  }

 private:
  float plain(const uint8_t* weights, int64_t k, int64_t lane) const {
    switch (head_.kind) {
      case TRITONODE_LINEAR_FLOAT32: return reinterpret_cast<const float*>(weights)[k * kLanes + lane];
      case TRITONODE_LINEAR_FLOAT16: return to_float(reinterpret_cast<const float16*>(weights)[k * kLanes + lane]);
      default: return to_float(reinterpret_cast<const bfloat16*>(weights)[k / 2 * 2 * kLanes + lane * 2 + k % 2]);
    }
  }

  int quant(const uint8_t* weights, int64_t k, int64_t lane) const {
    if (head_.kind == TRITONODE_LINEAR_INT8) return weights[k / 4 * 4 * kLanes + lane * 4 + k % 4] - 128;
    // A run is of 16 or 32 inputs (valid()): shifts where divisions would take most of the time.
    const int64_t shift = head_.run == 32 ? 5 : 4, half = head_.run / 2;
    const int64_t in_run = k & (head_.run - 1), place = in_run & (half - 1);
    const uint8_t both = weights[(k >> shift) * half * kLanes + place / 4 * 4 * kLanes + lane * 4 + place % 4];
    return in_run < half ? both & 15 : both >> 4;
  }

  const uint8_t* packed_;
  const Head& head_;
  const Layout layout_;
};

struct LookUp {
  const Unpacking& from;
  const int64_t* ids;
  int64_t inputs;
  float* out;
};

}  // namespace
}  // namespace tritonode::linear

using namespace tritonode::linear;

extern "C" {

int32_t tritonode_linear_abi_version(void) { return TRITONODE_LINEAR_ABI; }

int64_t tritonode_linear_packed_bytes(const tritonode_linear_source* source) {
  Head head;
  return make_head(source, head) ? head.bytes : -1;
}

int32_t tritonode_linear_pack(const tritonode_linear_source* source, void* packed, int64_t bytes) {
  Head head;
  if (!make_head(source, head) || !source->data || !packed || head.bytes != bytes) return TRITONODE_PUNICA_INVALID;
  Packing packing{*source, head, Layout(head), static_cast<uint8_t*>(packed), {}};
  std::memcpy(packed, &head, sizeof(head));
  const auto body = [](int64_t block, void* context) { static_cast<Packing*>(context)->pack(block); };
  const double cost = static_cast<double>(head.outputs * head.inputs);  // about an element a nanosecond
  if (!tritonode::punica::share(packing.layout.blocks, cost, body, &packing)) return TRITONODE_PUNICA_NO_MEMORY;
  return packing.refused.load() ? TRITONODE_PUNICA_INVALID : TRITONODE_PUNICA_OK;
}

int32_t tritonode_linear_describe(const void* packed, int64_t bytes, tritonode_linear_shape* shape) {
  Head head;
  if (!shape || !read_head(packed, bytes, head)) return TRITONODE_PUNICA_INVALID;
  *shape = {head.outputs, head.inputs, head.group, head.kind, head.zero, head.scale_bits,
            head.minimum_bits, head.activation_bits};
  return TRITONODE_PUNICA_OK;
}

int32_t tritonode_linear_unpack(const void* packed, int64_t bytes, int64_t begin, int64_t end, float* out) {
  Head head;
  if (!out || !read_head(packed, bytes, head) || begin < 0 || begin > end || end > head.outputs)
    return TRITONODE_PUNICA_INVALID;
  const Unpacking from(packed, head);
  for (int64_t n = begin; n < end; ++n, out += head.inputs) from.row(n, out);
  return TRITONODE_PUNICA_OK;
}

int32_t tritonode_linear_rows(const void* packed, int64_t bytes, const int64_t* ids, int64_t count, float* out) {
  Head head;
  if (count < 0 || (count > 0 && (!ids || !out)) || !read_head(packed, bytes, head)) return TRITONODE_PUNICA_INVALID;
  if (std::any_of(ids, ids + count, [&](int64_t id) { return id < 0 || id >= head.outputs; }))
    return TRITONODE_PUNICA_INVALID;
  const Unpacking from(packed, head);
  LookUp look{from, ids, head.inputs, out};
  const auto body = [](int64_t i, void* context) {
    const auto& of = *static_cast<const LookUp*>(context);
    of.from.row(of.ids[i], of.out + i * of.inputs);
  };
  const double cost = static_cast<double>(count * head.inputs) * 2;  // nanoseconds
  return tritonode::punica::share(count, cost, body, &look) ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_NO_MEMORY;
}

}  // extern "C"
