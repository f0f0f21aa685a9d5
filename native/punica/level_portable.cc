// Plain C++ (vec_scalar.h), for every processor.
#include "kernels.h"
#include <bit>
#include <cmath>
#include <type_traits>
#include "vec_scalar.h"

namespace tritonode::punica {
namespace {

struct Vec : ScalarVec<8> {
  static constexpr int kChunk = 8;
  static constexpr int kRows = 2;
  static constexpr int kColumns = 2;
  static constexpr int kDotSums = 16;

  static inline F div(F a, F b) {
    for (int i = 0; i < N; ++i) a.lane[i] /= b.lane[i];
    return a;
  }
  static inline F max(F a, F b) {
    for (int i = 0; i < N; ++i) a.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return a;
  }
  static inline F clamp(F v, float low, float high) {
    for (float& lane : v.lane) lane = lane < low ? low : (lane > high ? high : lane);
    return v;
  }
  // v * 2^k, k in the low bits of `bits` (a float32 whose exponent is fixed).
  static inline F times_power(F v, F bits) {
    for (int i = 0; i < N; ++i)
      v.lane[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(v.lane[i]) + (std::bit_cast<uint32_t>(bits.lane[i]) << 23));
    return v;
  }
  static inline float sum(F v) {
    for (int width = N / 2; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) v.lane[i] += v.lane[i + width];
    return v.lane[0];
  }
  template <class W>
  static inline void transpose_partial(const W* b, int64_t stride, int rows, int ranks, F (&out)[8]) {
    for (int k = 0; k < kChunk; ++k) out[k] = F{};
    for (int i = 0; i < rows; ++i)
      for (int k = 0; k < ranks; ++k) out[k].lane[i] = to_float(b[i * stride + k]);
  }
  template <class W>
  static inline void transpose(const W* b, int64_t stride, F (&out)[8]) {
    transpose_partial(b, stride, N, kChunk, out);
  }
  template <class W>
  static inline void load_pairs(const W* p, F& first, F& second) {
    for (int i = 0; i < N; ++i) {
      first.lane[i] = to_float(p[2 * i]);
      second.lane[i] = to_float(p[2 * i + 1]);
    }
  }
  template <class X, class W>
  static constexpr int64_t kDot = N;
#include "dot.inl"
};

#include "kernels.inl"
}  // namespace
const Kernels* portable_kernels() { return &kTable; }
}  // namespace tritonode::punica
