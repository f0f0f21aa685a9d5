// AVX2 with FMA and F16C (Haswell, Zen and later).
// Standard headers come before the pragma: their inline functions must not be compiled for this level, or the linker may
// keep that copy for the whole library, and a CPU without these instructions would run it.
#include "kernels.h"
#include <cmath>
#include <type_traits>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c")
#endif
namespace tritonode::punica {
namespace {

struct Vec {
  using F = __m256;
  static constexpr int N = 8;
  static constexpr int kChunk = 8;
  static constexpr int kRows = 4;  // 4 x 2 accumulators + 2 columns + 1 broadcast of 16 registers
  static constexpr int kColumns = 2;
  static constexpr int kDotSums = 8;

  static inline F zero() { return _mm256_setzero_ps(); }
  static inline F set1(float v) { return _mm256_set1_ps(v); }
  static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
  static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm256_div_ps(a, b); }
  static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
  // The value comes second: these instructions return their second operand if either is a NaN.
  static inline F clamp(F v, float low, float high) {
    return _mm256_min_ps(set1(high), _mm256_max_ps(set1(low), v));
  }
  // v * 2^k, k in the low bits of `bits` (a float32 whose exponent is fixed).
  static inline F times_power(F v, F bits) {
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(v), _mm256_slli_epi32(_mm256_castps_si256(bits), 23)));
  }
  static inline float sum(F v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }

  static inline F widen(__m128i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16)); }
  static inline __m128i narrow(F v) {
    // Round to nearest, ties to even; a NaN keeps a quiet bit so that rounding can't turn it into infinity.
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
  // Through a buffer on the stack: a 16-byte load past the end of a tensor could meet an unmapped page.
  template <class T>
  static inline __m128i words(const T* p, int n) {
    alignas(16) uint16_t buffer[8] = {};
    std::memcpy(buffer, p, static_cast<size_t>(n) * 2);
    return _mm_load_si128(reinterpret_cast<const __m128i*>(buffer));
  }
  template <class T>
  static inline void put_words(T* p, __m128i v, int n) {
    alignas(16) uint16_t buffer[8];
    _mm_store_si128(reinterpret_cast<__m128i*>(buffer), v);
    std::memcpy(p, buffer, static_cast<size_t>(n) * 2);
  }
  static inline __m256i mask(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }

  static inline F load(const float* p) { return _mm256_loadu_ps(p); }
  static inline F load(const bfloat16* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static inline F load(const float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static inline F load_partial(const float* p, int n) { return _mm256_maskload_ps(p, mask(n)); }
  static inline F load_partial(const bfloat16* p, int n) { return widen(words(p, n)); }
  static inline F load_partial(const float16* p, int n) { return _mm256_cvtph_ps(words(p, n)); }
  static inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static inline void store(bfloat16* p, F v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v)); }
  static inline void store(float16* p, F v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static inline void store_partial(float* p, F v, int n) { _mm256_maskstore_ps(p, mask(n), v); }
  static inline void store_partial(bfloat16* p, F v, int n) { put_words(p, narrow(v), n); }
  static inline void store_partial(float16* p, F v, int n) {
    put_words(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT), n);
  }

  // Rows 4L + m in 128-bit lane L of register m: a 4 x 4 transpose inside each lane then leaves 8 rows in order.
  static inline void transpose_lanes(__m256i (&r)[4]) {
    const __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
    const __m256i c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm256_unpacklo_epi64(a, c);
    r[1] = _mm256_unpackhi_epi64(a, c);
    r[2] = _mm256_unpacklo_epi64(b, d);
    r[3] = _mm256_unpackhi_epi64(b, d);
  }
  template <class Load>
  static inline void gather_lanes(__m256i (&r)[4], Load row) {
    for (int m = 0; m < 4; ++m) r[m] = _mm256_inserti128_si256(_mm256_castsi128_si256(row(m)), row(4 + m), 1);
  }
  static inline __m256i pairs(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static inline F even(__m256i v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
  static inline F odd(__m256i v) {
    return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static inline F low_halves(__m256i words) {
    return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  static inline void split(__m256i pairs, const bfloat16*, F& first, F& second) {
    first = even(pairs);
    second = odd(pairs);
  }
  static inline void split(__m256i pairs, const float16*, F& first, F& second) {
    first = low_halves(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)));
    second = low_halves(_mm256_srli_epi32(pairs, 16));
  }
  template <class W>
  static inline void spread(const __m256i (&r)[4], const W* type, F (&out)[8]) {
    for (int j = 0; j < 4; ++j) split(r[j], type, out[2 * j], out[2 * j + 1]);
  }
  template <class W>
  static inline void load_pairs(const W* p, F& first, F& second) {
    split(pairs(p), p, first, second);
  }

  // out[k][i] = b[i * stride + k] for 8 rows i and 8 ranks k.
  template <class W>
  static inline void transpose(const W* b, int64_t stride, F (&out)[8]) {
    __m256i r[4];
    gather_lanes(r, [=](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i * stride)); });
    transpose_lanes(r);
    spread(r, b, out);
  }
  static inline void transpose(const float* b, int64_t stride, F (&out)[8]) {
    for (int half = 0; half < 2; ++half) {
      __m256i r[4];
      gather_lanes(
          r, [=](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i * stride + 4 * half)); });
      transpose_lanes(r);
      for (int j = 0; j < 4; ++j) out[4 * half + j] = _mm256_castsi256_ps(r[j]);
    }
  }
  template <class W>
  static inline void transpose_partial(const W* b, int64_t stride, int rows, int ranks, F (&out)[8]) {
    __m256i r[4];
    gather_lanes(r, [=](int i) { return i < rows ? words(b + i * stride, ranks) : _mm_setzero_si128(); });
    transpose_lanes(r);
    spread(r, b, out);
  }
  static inline void transpose_partial(const float* b, int64_t stride, int rows, int ranks, F (&out)[8]) {
    for (int half = 0; half < 2; ++half) {
      const int here = ranks - 4 * half < 0 ? 0 : (ranks - 4 * half < 4 ? ranks - 4 * half : 4);
      const __m128i m = _mm_cmpgt_epi32(_mm_set1_epi32(here), _mm_setr_epi32(0, 1, 2, 3));
      __m256i r[4];
      gather_lanes(r, [=](int i) {
        return i < rows ? _mm_castps_si128(_mm_maskload_ps(b + i * stride + 4 * half, m)) : _mm_setzero_si128();
      });
      transpose_lanes(r);
      for (int j = 0; j < 4; ++j) out[4 * half + j] = _mm256_castsi256_ps(r[j]);
    }
  }
  // Sixteen products of bfloat16 at once, those of even number first: a shift and a mask widen what one load brings, where
  // eight at a time take a conversion and a shift for each load.
  template <class X, class W>
  static constexpr bool kPairs = std::is_same_v<X, bfloat16> && std::is_same_v<W, bfloat16>;
  template <class X, class W>
  static constexpr int64_t kDot = kPairs<X, W> ? 2 * N : N;
#include "dot.inl"

  template <class X, class W, int T, int R>
    requires kPairs<X, W>
  static inline void dot(F (&acc)[T][R], const X* const (&x)[T], const W* const (&a)[R], int64_t i) {
    F v[T];
    for (int t = 0; t < T; ++t) v[t] = even(pairs(x[t] + i));
    for (int r = 0; r < R; ++r) {
      const F w = even(pairs(a[r] + i));
      for (int t = 0; t < T; ++t) acc[t][r] = fma(v[t], w, acc[t][r]);
    }
    for (int t = 0; t < T; ++t) v[t] = odd(pairs(x[t] + i));
    for (int r = 0; r < R; ++r) {
      const F w = odd(pairs(a[r] + i));
      for (int t = 0; t < T; ++t) acc[t][r] = fma(v[t], w, acc[t][r]);
    }
  }
  template <class X, class W, int T, int R>
    requires kPairs<X, W>
  static inline void dot_partial(F (&acc)[T][R], const X* const (&x)[T], const W* const (&a)[R], int64_t i, int n) {
    bfloat16 rows[T + R][2 * N] = {};
    const bfloat16* row[T];
    const bfloat16* weight[R];
    const size_t bytes = static_cast<size_t>(n) * sizeof(bfloat16);
    for (int t = 0; t < T; ++t) row[t] = static_cast<const bfloat16*>(std::memcpy(rows[t], x[t] + i, bytes));
    for (int r = 0; r < R; ++r) weight[r] = static_cast<const bfloat16*>(std::memcpy(rows[T + r], a[r] + i, bytes));
    dot<X, W, T, R>(acc, row, weight, 0);
  }
};

#include "kernels.inl"
}  // namespace
const Kernels* avx2_kernels() { return &kTable; }
}  // namespace tritonode::punica
#if defined(__clang__)
#pragma clang attribute pop
#endif
#else
namespace tritonode::punica {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace tritonode::punica
#endif
