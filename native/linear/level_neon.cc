// arm64 NEON, which every AArch64 has.
#include <bit>
#include <cstring>

#include "../punica/scalar.h"
#include "kernels.h"
#if defined(__aarch64__)
#include <arm_neon.h>
namespace tritonode::linear {
namespace {

using punica::to_float;

// Four registers of 128 bits.
struct Vec {
  static constexpr int N = 16;
  static constexpr bool kPairs = false;
  static constexpr bool kWords = false;
  static constexpr bool kShortSums = false;
  static constexpr int kFirstFloatHeight = 3;
  static constexpr int kFirstHeight = 3;      // 2 rows: 16 of 32 registers are sums
  static constexpr int kFirstWideHeight = 3;  // 2 rows: 24 are
  static constexpr int kByteZero = 0;
  struct F {
    float32x4_t part[4];
  };
  struct I {
    int32x4_t part[4];
  };
  struct B {
    uint8x16_t part[4];
  };

  static inline F zero() { return set1(0.0f); }
  static inline F set1(float v) {
    const float32x4_t all = vdupq_n_f32(v);
    return {{all, all, all, all}};
  }
  static inline F fma(F a, F b, F c) {
    for (int i = 0; i < 4; ++i) c.part[i] = vfmaq_f32(c.part[i], a.part[i], b.part[i]);
    return c;
  }
  static inline F add(F a, F b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vaddq_f32(a.part[i], b.part[i]);
    return a;
  }
  static inline F mul(F a, F b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vmulq_f32(a.part[i], b.part[i]);
    return a;
  }
  static inline float32x4_t wide(const float* p) { return vld1q_f32(p); }
  static inline float32x4_t wide(const float16* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p))));
  }
  static inline float32x4_t wide(const bfloat16* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(reinterpret_cast<const uint16_t*>(p)), 16));
  }
  template <class T>
  static inline F load(const T* p) {
    return {{wide(p), wide(p + 4), wide(p + 8), wide(p + 12)}};
  }
  static inline void narrow(float* p, float32x4_t v) { vst1q_f32(p, v); }
  static inline void narrow(float16* p, float32x4_t v) {
    vst1_u16(reinterpret_cast<uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(v)));
  }
  static inline void narrow(bfloat16* p, float32x4_t v) {
    // Round to nearest, ties to even; a NaN keeps a quiet bit so that rounding can't turn it into infinity.
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    vst1_u16(reinterpret_cast<uint16_t*>(p), vshrn_n_u32(vbslq_u32(vceqq_f32(v, v), rounded, quiet), 16));
  }
  template <class T>
  static inline void store(T* p, F v) {
    for (int i = 0; i < 4; ++i) narrow(p + 4 * i, v.part[i]);
  }
  template <class T>
  static inline void store_partial(T* p, F v, int n) {
    T all[N];
    store(all, v);
    std::memcpy(p, all, static_cast<size_t>(n) * sizeof(T));
  }
  static inline F from_int(I v) {
    F out;
    for (int i = 0; i < 4; ++i) out.part[i] = vcvtq_f32_s32(v.part[i]);
    return out;
  }
  static inline I set1_int(int32_t v) {
    const int32x4_t all = vdupq_n_s32(v);
    return {{all, all, all, all}};
  }
  static inline I add_128(I a, I b) {
    for (int i = 0; i < 4; ++i) a.part[i] = vaddq_s32(a.part[i], vshlq_n_s32(b.part[i], 7));
    return a;
  }
  static inline B load_bytes(const uint8_t* p) {
    return {{vld1q_u8(p), vld1q_u8(p + 16), vld1q_u8(p + 32), vld1q_u8(p + 48)}};
  }
  static inline B low_nibbles(B v) {
    for (uint8x16_t& part : v.part) part = vandq_u8(part, vdupq_n_u8(15));
    return v;
  }
  static inline B high_nibbles(B v) {
    for (uint8x16_t& part : v.part) part = vshrq_n_u8(part, 4);
    return v;
  }
  static inline int32x4_t dot(int32x4_t sum, int8x16_t w, int8x16_t x) {
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    const int32x4_t high = vpaddlq_s16(vmull_high_s8(w, x));
    return vaddq_s32(sum, vpaddq_s32(low, high));
  }
  static inline I dot4(I sum, B w, int32_t q) {
    const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(q));
    for (int i = 0; i < 4; ++i) sum.part[i] = dot(sum.part[i], vreinterpretq_s8_u8(w.part[i]), x);
    return sum;
  }
  static inline I dot8(I sum, B w, int32_t q) {
    for (uint8x16_t& part : w.part) part = veorq_u8(part, vdupq_n_u8(0x80));
    return dot4(sum, w, q);
  }
  static inline F low_pairs(B v) {
    F out;
    for (int i = 0; i < 4; ++i)
      out.part[i] = vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u8(v.part[i]), 16));
    return out;
  }
  static inline F high_pairs(B v) {
    F out;
    for (int i = 0; i < 4; ++i)
      out.part[i] = vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(v.part[i]), vdupq_n_u32(0xffff0000u)));
    return out;
  }
};

#include "kernels.inl"
}  // namespace
const Kernels* neon_kernels() { return &kTable; }
}  // namespace tritonode::linear
#else
namespace tritonode::linear {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace tritonode::linear
#endif
