// AVX2 with FMA and F16C (Haswell, Zen and later).
// Standard headers come before the pragma: what they define must not be compiled for this level, or the linker may
// keep that copy for the whole library and a lesser CPU would meet it.
#include "kernels.h"
#include <bit>
#include <cstring>
#include "../punica/scalar.h"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
namespace tritonode::linear {
namespace {

using punica::to_float;

// Two registers of 256 bits.
struct Vec {
  static constexpr int N = 16;
  static constexpr bool kPairs = false;
  static constexpr bool kWords = true;
  static constexpr bool kShortSums = true;
  // Of 16 registers 8 are sums, of a run for quants: sums over runs are used once a run, so memory will do.
  static constexpr int kFirstFloatHeight = 3;  // 2 rows
  static constexpr int kFirstHeight = 2;       // 4 rows
  static constexpr int kFirstWideHeight = 3;   // 2 rows
  static constexpr int kByteZero = 128;
  struct F {
    __m256 a, b;
  };
  struct I {
    __m256i a, b;
  };
  using B = I;

  static inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static inline F set1(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
  static inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.a, b.a, c.a), _mm256_fmadd_ps(a.b, b.b, c.b)}; }
  static inline F add(F a, F b) { return {_mm256_add_ps(a.a, b.a), _mm256_add_ps(a.b, b.b)}; }
  static inline F mul(F a, F b) { return {_mm256_mul_ps(a.a, b.a), _mm256_mul_ps(a.b, b.b)}; }
  static inline __m128i words(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static inline F load(const float16* p) { return {_mm256_cvtph_ps(words(p)), _mm256_cvtph_ps(words(p + 8))}; }
  static inline F load(const bfloat16* p) { return {wide(words(p)), wide(words(p + 8))}; }
  static inline void store(float* p, F v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
  }
  static inline void store(float16* p, F v) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v.a, nearest));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(v.b, nearest));
  }
  static inline void store(bfloat16* p, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), brain(v.a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), brain(v.b));
  }
  template <class T>
  static inline void store_partial(T* p, F v, int n) {
    T all[N];
    store(all, v);
    std::memcpy(p, all, static_cast<size_t>(n) * sizeof(T));
  }
  static inline F from_int(I v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
  static inline I set1_int(int32_t v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
  static inline I add_128(I a, I b) {
    return {_mm256_add_epi32(a.a, _mm256_slli_epi32(b.a, 7)), _mm256_add_epi32(a.b, _mm256_slli_epi32(b.b, 7))};
  }
  static inline B load_bytes(const uint8_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  }
  static inline B low_nibbles(B v) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
  }
  static inline B high_nibbles(B v) { return low_nibbles({_mm256_srli_epi16(v.a, 4), _mm256_srli_epi16(v.b, 4)}); }
  // The value, computed before what follows: GCC makes trees of chained whole additions, whose leaves do not all fit into 16
  // registers.
  static inline __m256i chained(__m256i v) {
    asm("" : "+x"(v));
    return v;
  }
  static inline B no_bytes() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static inline B dot4_short(B sum, B w, int32_t q) {
    const __m256i x = _mm256_set1_epi32(q);
    return {chained(_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(w.a, x))),
            chained(_mm256_add_epi16(sum.b, _mm256_maddubs_epi16(w.b, x)))};
  }
  static inline I add_shorts(I sum, B v) {
    const __m256i one = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(v.a, one)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(v.b, one))};
  }
  static inline B even_bytes(B v) {
    const __m256i mask = _mm256_set1_epi16(0xff);
    return {_mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask)};
  }
  static inline B odd_bytes(B v) { return {_mm256_srli_epi16(v.a, 8), _mm256_srli_epi16(v.b, 8)}; }
  // One instruction for two products of 16 bits; of 8 bits, with signs put right and sums made wide, it takes three.
  static inline I dot_words(I sum, B w, int32_t pair) {
    const __m256i x = _mm256_set1_epi32(pair);
    return {chained(_mm256_add_epi32(sum.a, _mm256_madd_epi16(w.a, x))),
            chained(_mm256_add_epi32(sum.b, _mm256_madd_epi16(w.b, x)))};
  }
  static inline F low_pairs(B v) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(v.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(v.b, 16))};
  }
  static inline F high_pairs(B v) {
    const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    return {_mm256_castsi256_ps(_mm256_and_si256(v.a, mask)), _mm256_castsi256_ps(_mm256_and_si256(v.b, mask))};
  }

 private:
  static inline __m256 wide(__m128i v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
  }
  static inline __m128i brain(__m256 v) {
    // Round to nearest, ties to even; a NaN keeps a quiet bit so that rounding can't turn it into infinity.
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i chosen = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
  }
};

#include "kernels.inl"
}  // namespace
const Kernels* avx2_kernels() { return &kTable; }
}  // namespace tritonode::linear
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace tritonode::linear {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace tritonode::linear
#endif
