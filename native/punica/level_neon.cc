// arm64 NEON, which every AArch64 has.
#include "kernels.h"
#include <cmath>
#include <type_traits>
#include <cstring>
#if defined(__aarch64__)
#include <arm_neon.h>
namespace tritonode::punica {
namespace {

struct Vec {
  using F = float32x4_t;
  static constexpr int N = 4;
  static constexpr int kChunk = 8;
  static constexpr int kRows = 5;  // 5 x 4 accumulators + 4 columns + 1 broadcast of 32 registers
  static constexpr int kColumns = 4;
  static constexpr int kDotSums = 16;

  static inline F zero() { return vdupq_n_f32(0.0f); }
  static inline F set1(float v) { return vdupq_n_f32(v); }
  static inline F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static inline F add(F a, F b) { return vaddq_f32(a, b); }
  static inline F mul(F a, F b) { return vmulq_f32(a, b); }
  static inline F div(F a, F b) { return vdivq_f32(a, b); }
  static inline F max(F a, F b) { return vmaxq_f32(a, b); }
  static inline F clamp(F v, float low, float high) { return vminq_f32(vmaxq_f32(v, set1(low)), set1(high)); }
  // v * 2^k, k in the low bits of `bits` (a float32 whose exponent is fixed).
  static inline F times_power(F v, F bits) {
    return vreinterpretq_f32_u32(
        vaddq_u32(vreinterpretq_u32_f32(v), vshlq_n_u32(vreinterpretq_u32_f32(bits), 23)));
  }
  static inline float sum(F v) { return vaddvq_f32(v); }

  static inline F widen_bf16(uint16x4_t v) { return vreinterpretq_f32_u32(vshll_n_u16(v, 16)); }
  static inline F widen_half(uint16x4_t v) { return vcvt_f32_f16(vreinterpret_f16_u16(v)); }
  static inline uint16x4_t narrow(F v) {
    // Round to nearest, ties to even; a NaN keeps a quiet bit so that rounding can't turn it into infinity.
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16);
  }
  template <class T>
  static inline uint16x4_t words(const T* p, int n) {
    uint16_t buffer[4] = {};
    std::memcpy(buffer, p, static_cast<size_t>(n) * 2);
    return vld1_u16(buffer);
  }
  template <class T>
  static inline void put_words(T* p, uint16x4_t v, int n) {
    uint16_t buffer[4];
    vst1_u16(buffer, v);
    std::memcpy(p, buffer, static_cast<size_t>(n) * 2);
  }

  static inline F load(const float* p) { return vld1q_f32(p); }
  static inline F load(const bfloat16* p) { return widen_bf16(vld1_u16(&p->bits)); }
  static inline F load(const float16* p) { return widen_half(vld1_u16(&p->bits)); }
  static inline F load_partial(const float* p, int n) {
    float buffer[4] = {};
    std::memcpy(buffer, p, static_cast<size_t>(n) * 4);
    return vld1q_f32(buffer);
  }
  static inline F load_partial(const bfloat16* p, int n) { return widen_bf16(words(p, n)); }
  static inline F load_partial(const float16* p, int n) { return widen_half(words(p, n)); }
  static inline void store(float* p, F v) { vst1q_f32(p, v); }
  static inline void store(bfloat16* p, F v) { vst1_u16(&p->bits, narrow(v)); }
  static inline void store(float16* p, F v) { vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
  static inline void store_partial(float* p, F v, int n) {
    float buffer[4];
    vst1q_f32(buffer, v);
    std::memcpy(p, buffer, static_cast<size_t>(n) * 4);
  }
  static inline void store_partial(bfloat16* p, F v, int n) { put_words(p, narrow(v), n); }
  static inline void store_partial(float16* p, F v, int n) {
    put_words(p, vreinterpret_u16_f16(vcvt_f16_f32(v)), n);
  }

  static inline void transpose4(uint32x4_t (&r)[4]) {
    const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1]));
    const uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
    const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3]));
    const uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
    r[0] = vreinterpretq_u32_u64(vtrn1q_u64(a, c));
    r[1] = vreinterpretq_u32_u64(vtrn1q_u64(b, d));
    r[2] = vreinterpretq_u32_u64(vtrn2q_u64(a, c));
    r[3] = vreinterpretq_u32_u64(vtrn2q_u64(b, d));
  }
  static inline void split(uint32x4_t pairs, const bfloat16*, F& first, F& second) {
    first = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    second = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
  }
  static inline void split(uint32x4_t pairs, const float16*, F& first, F& second) {
    first = widen_half(vmovn_u32(pairs));
    second = widen_half(vshrn_n_u32(pairs, 16));
  }
  template <class W>
  static inline void spread(const uint32x4_t (&r)[4], const W* type, F (&out)[8]) {
    for (int j = 0; j < 4; ++j) split(r[j], type, out[2 * j], out[2 * j + 1]);
  }
  template <class W>
  static inline void load_pairs(const W* p, F& first, F& second) {
    split(vreinterpretq_u32_u16(vld1q_u16(&p->bits)), p, first, second);
  }

  // out[k][i] = b[i * stride + k] for 4 rows i and 8 ranks k.
  template <class W>
  static inline void transpose(const W* b, int64_t stride, F (&out)[8]) {
    uint32x4_t r[4];
    for (int i = 0; i < 4; ++i) r[i] = vreinterpretq_u32_u16(vld1q_u16(&b[i * stride].bits));
    transpose4(r);
    spread(r, b, out);
  }
  static inline void transpose(const float* b, int64_t stride, F (&out)[8]) {
    for (int half = 0; half < 2; ++half) {
      uint32x4_t r[4];
      for (int i = 0; i < 4; ++i) r[i] = vreinterpretq_u32_f32(vld1q_f32(b + i * stride + 4 * half));
      transpose4(r);
      for (int j = 0; j < 4; ++j) out[4 * half + j] = vreinterpretq_f32_u32(r[j]);
    }
  }
  // Through a padded copy: a load past the end of a tensor could meet an unmapped page.
  template <class W>
  static inline void transpose_partial(const W* b, int64_t stride, int rows, int ranks, F (&out)[8]) {
    W buffer[4 * kChunk] = {};
    for (int i = 0; i < rows; ++i)
      std::memcpy(buffer + i * kChunk, b + i * stride, static_cast<size_t>(ranks) * sizeof(W));
    transpose(buffer, kChunk, out);
  }
  template <class X, class W>
  static constexpr int64_t kDot = N;
#include "dot.inl"
};

#include "kernels.inl"
}  // namespace
const Kernels* neon_kernels() { return &kTable; }
}  // namespace tritonode::punica
#else
namespace tritonode::punica {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace tritonode::punica
#endif
