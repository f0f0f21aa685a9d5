// AVX-512 with BF16 and VNNI instructions (Cooper Lake, Sapphire Rapids, Zen 4 and later).
// Standard headers come before the pragma: what they define must not be compiled for this level, or the linker may
// keep that copy for the whole library and a lesser CPU would meet it.
#include "kernels.h"
#include <bit>
#include <cstring>
#include "../punica/scalar.h"
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16,avx512vnni"))), apply_to = function)
#else
// GCC 12 takes the deliberate don't-care operands of its own AVX-512 headers for uninitialised variables.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512bf16,avx512vnni")
#endif
namespace tritonode::linear {
namespace {

using punica::to_float;

struct Vec {
  static constexpr int N = 16;
  static constexpr bool kPairs = true;
  static constexpr bool kWords = false;
  static constexpr bool kShortSums = false;
  static constexpr int kFirstFloatHeight = 0;
  static constexpr int kFirstHeight = 0;      // 12 rows: 24 sums of 32 registers
  static constexpr int kFirstWideHeight = 1;  // 8 rows likewise
  static constexpr int kByteZero = 128;
  using F = __m512;
  using I = __m512i;
  using B = __m512i;

  static inline F zero() { return _mm512_setzero_ps(); }
  static inline F set1(float v) { return _mm512_set1_ps(v); }
  static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline F load(const float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static inline F load(const bfloat16* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static inline void store(float16* p, F v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half(v)); }
  static inline void store(bfloat16* p, F v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), brain(v)); }
  static inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static inline void store_partial(float* p, F v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
  static inline void store_partial(float16* p, F v, int n) { _mm256_mask_storeu_epi16(p, first(n), half(v)); }
  static inline void store_partial(bfloat16* p, F v, int n) { _mm256_mask_storeu_epi16(p, first(n), brain(v)); }
  static inline F from_int(I v) { return _mm512_cvtepi32_ps(v); }
  static inline I set1_int(int32_t v) { return _mm512_set1_epi32(v); }
  static inline I add_128(I a, I b) { return _mm512_add_epi32(a, _mm512_slli_epi32(b, 7)); }
  static inline B load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static inline B low_nibbles(B v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }
  static inline B high_nibbles(B v) { return low_nibbles(_mm512_srli_epi16(v, 4)); }
  static inline I dot4(I sum, B w, int32_t q) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(q)); }
  static inline I dot8(I sum, B w, int32_t q) { return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(q)); }
  static inline F low_pairs(B v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
  static inline F high_pairs(B v) {
    return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static inline F dot_pairs(F sum, B w, int32_t pair) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)));
  }

  // Indices are taken modulo 32: what lies above a nibble's four bits selects between two equal halves.
  static inline B nibble_table(int32_t zero) {
    alignas(64) float values[32];
    for (int i = 0; i < 32; ++i) values[i] = static_cast<float>((i & 15) - zero);
    return _mm512_inserti64x4(_mm512_castsi256_si512(brain(load(values))), brain(load(values + 16)), 1);
  }
  template <int I>
  static inline B nibble_pairs(B table, B v) {
    return _mm512_permutexvar_epi16(I == 0 ? v : _mm512_srli_epi16(v, 4 * I), table);
  }
  template <int I>
  static inline B byte_pairs(B v, int32_t zero) {
    // 2^23 + byte as float32; what is left then of 16 bits below the sign, exponent and 7 bits is zero.
    const B low = _mm512_srli_epi32(v, 8 * I), high = _mm512_srli_epi32(v, 16 + 8 * I), byte = _mm512_set1_epi32(255);
    const B magic = _mm512_set1_epi32(0x4b000000);
    const F offset = _mm512_set1_ps(static_cast<float>(8388608 + 128 + zero));
    const F a = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(low, byte), magic)), offset);
    const F b = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_or_si512(_mm512_and_si512(high, byte), magic)), offset);
    return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(a), 16), _mm512_castps_si512(b));
  }

 private:
  static inline __m256i half(F v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static inline __m256i brain(F v) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)); }
};

#include "kernels.inl"
}  // namespace
const Kernels* avx512_vnni_kernels() { return &kTable; }
}  // namespace tritonode::linear
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace tritonode::linear {
const Kernels* avx512_vnni_kernels() { return nullptr; }
}  // namespace tritonode::linear
#endif
