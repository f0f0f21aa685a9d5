// Vec over AVX-512 F, BW, DQ, VL. With TRITONODE_PUNICA_BF16: AVX-512 BF16 as well.
struct Vec {
  using F = __m512;
  static constexpr int N = 16;
  static constexpr int kChunk = 8;
  static constexpr int kRows = 6;  // 6 x 4 accumulators + 4 columns + 1 broadcast of 32 registers
  static constexpr int kColumns = 4;
  static constexpr int kDotSums = 16;

  static inline F zero() { return _mm512_setzero_ps(); }
  static inline F set1(float v) { return _mm512_set1_ps(v); }
  static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
  static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
  static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
  // The value comes second: these instructions return their second operand if either is a NaN.
  static inline F clamp(F v, float low, float high) {
    return _mm512_min_ps(set1(high), _mm512_max_ps(set1(low), v));
  }
  // v * 2^k, k in the low bits of `bits` (a float32 whose exponent is fixed).
  static inline F times_power(F v, F bits) {
    return _mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(v), _mm512_slli_epi32(_mm512_castps_si512(bits), 23)));
  }
  static inline float sum(F v) { return _mm512_reduce_add_ps(v); }

  static inline __mmask16 mask(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  static inline F widen(__m256i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
  }
  static inline __m256i narrow(F v) {
#ifdef TRITONODE_PUNICA_BF16
    return (__m256i)_mm512_cvtneps_pbh(v);
#else
    // Round to nearest, ties to even; a NaN keeps a quiet bit so that rounding can't turn it into infinity.
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(nan, rounded, quiet), 16));
#endif
  }

  static inline F load(const float* p) { return _mm512_loadu_ps(p); }
  static inline F load(const bfloat16* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static inline F load(const float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static inline F load_partial(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static inline F load_partial(const bfloat16* p, int n) { return widen(_mm256_maskz_loadu_epi16(mask(n), p)); }
  static inline F load_partial(const float16* p, int n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask(n), p));
  }
  static inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static inline void store(bfloat16* p, F v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v)); }
  static inline void store(float16* p, F v) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static inline void store_partial(float* p, F v, int n) { _mm512_mask_storeu_ps(p, mask(n), v); }
  static inline void store_partial(bfloat16* p, F v, int n) { _mm256_mask_storeu_epi16(p, mask(n), narrow(v)); }
  static inline void store_partial(float16* p, F v, int n) {
    _mm256_mask_storeu_epi16(p, mask(n), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }

  // Rows 4L + m in 128-bit lane L of register m: a 4 x 4 transpose inside each lane then leaves 16 rows in order.
  static inline void transpose_lanes(__m512i (&r)[4]) {
    const __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
    const __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
    r[0] = _mm512_unpacklo_epi64(a, c);
    r[1] = _mm512_unpackhi_epi64(a, c);
    r[2] = _mm512_unpacklo_epi64(b, d);
    r[3] = _mm512_unpackhi_epi64(b, d);
  }
  template <class Load>
  static inline void gather_lanes(__m512i (&r)[4], Load row) {
    for (int m = 0; m < 4; ++m) {
      __m512i v = _mm512_castsi128_si512(row(m));
      v = _mm512_inserti32x4(v, row(4 + m), 1);
      v = _mm512_inserti32x4(v, row(8 + m), 2);
      r[m] = _mm512_inserti32x4(v, row(12 + m), 3);
    }
  }
  static inline void split(__m512i pairs, const bfloat16*, F& first, F& second) {
    first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    second = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static inline void split(__m512i pairs, const float16*, F& first, F& second) {
    first = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs));
    second = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(pairs, 16)));
  }
  template <class W>
  static inline void spread(const __m512i (&r)[4], const W* type, F (&out)[8]) {
    for (int j = 0; j < 4; ++j) split(r[j], type, out[2 * j], out[2 * j + 1]);
  }
  template <class W>
  static inline void load_pairs(const W* p, F& first, F& second) {
    split(_mm512_loadu_si512(p), p, first, second);
  }

  // out[k][i] = b[i * stride + k] for 16 rows i and 8 ranks k.
  template <class W>
  static inline void transpose(const W* b, int64_t stride, F (&out)[8]) {
    __m512i r[4];
    gather_lanes(r, [=](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i * stride)); });
    transpose_lanes(r);
    spread(r, b, out);
  }
  static inline void transpose(const float* b, int64_t stride, F (&out)[8]) {
    for (int half = 0; half < 2; ++half) {
      __m512i r[4];
      gather_lanes(
          r, [=](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i * stride + 4 * half)); });
      transpose_lanes(r);
      for (int j = 0; j < 4; ++j) out[4 * half + j] = _mm512_castsi512_ps(r[j]);
    }
  }
  template <class W>
  static inline void transpose_partial(const W* b, int64_t stride, int rows, int ranks, F (&out)[8]) {
    const __mmask8 m = static_cast<__mmask8>((1u << ranks) - 1u);
    __m512i r[4];
    gather_lanes(r, [=](int i) { return i < rows ? _mm_maskz_loadu_epi16(m, b + i * stride) : _mm_setzero_si128(); });
    transpose_lanes(r);
    spread(r, b, out);
  }
  static inline void transpose_partial(const float* b, int64_t stride, int rows, int ranks, F (&out)[8]) {
    for (int half = 0; half < 2; ++half) {
      const int here = ranks - 4 * half < 0 ? 0 : (ranks - 4 * half < 4 ? ranks - 4 * half : 4);
      const __mmask8 m = static_cast<__mmask8>((1u << here) - 1u);
      __m512i r[4];
      gather_lanes(r, [=](int i) {
        return i < rows ? _mm_maskz_loadu_epi32(m, b + i * stride + 4 * half) : _mm_setzero_si128();
      });
      transpose_lanes(r);
      for (int j = 0; j < 4; ++j) out[4 * half + j] = _mm512_castsi512_ps(r[j]);
    }
  }

#ifndef TRITONODE_PUNICA_BF16
  template <class X, class W>
  static constexpr int64_t kDot = N;
#include "dot.inl"
#else
  // bf16 by bf16 needs no widening: VDPBF16PS takes 32 pairs at once.
  template <class X, class W>
  static constexpr bool kPairs = std::is_same_v<X, bfloat16> && std::is_same_v<W, bfloat16>;
  template <class X, class W>
  static constexpr int64_t kDot = kPairs<X, W> ? 2 * N : N;

  template <class X, class W, int T, int R>
  static inline void dot(F (&acc)[T][R], const X* const (&x)[T], const W* const (&a)[R], int64_t i) {
    if constexpr (kPairs<X, W>) {
      __m512bh v[T];
      for (int t = 0; t < T; ++t) v[t] = (__m512bh)_mm512_loadu_si512(x[t] + i);
      for (int r = 0; r < R; ++r) {
        const __m512bh w = (__m512bh)_mm512_loadu_si512(a[r] + i);
        for (int t = 0; t < T; ++t) acc[t][r] = _mm512_dpbf16_ps(acc[t][r], v[t], w);
      }
    } else {
      F v[T];
      for (int t = 0; t < T; ++t) v[t] = load(x[t] + i);
      for (int r = 0; r < R; ++r) {
        const F w = load(a[r] + i);
        for (int t = 0; t < T; ++t) acc[t][r] = fma(v[t], w, acc[t][r]);
      }
    }
  }
  template <class X, class W, int T, int R>
  static inline void dot_partial(F (&acc)[T][R], const X* const (&x)[T], const W* const (&a)[R], int64_t i, int n) {
    if constexpr (kPairs<X, W>) {
      const __mmask32 m = static_cast<__mmask32>((1u << n) - 1u);
      __m512bh v[T];
      for (int t = 0; t < T; ++t) v[t] = (__m512bh)_mm512_maskz_loadu_epi16(m, x[t] + i);
      for (int r = 0; r < R; ++r) {
        const __m512bh w = (__m512bh)_mm512_maskz_loadu_epi16(m, a[r] + i);
        for (int t = 0; t < T; ++t) acc[t][r] = _mm512_dpbf16_ps(acc[t][r], v[t], w);
      }
    } else {
      F v[T];
      for (int t = 0; t < T; ++t) v[t] = load_partial(x[t] + i, n);
      for (int r = 0; r < R; ++r) {
        const F w = load_partial(a[r] + i, n);
        for (int t = 0; t < T; ++t) acc[t][r] = fma(v[t], w, acc[t][r]);
      }
    }
  }
#endif
};
