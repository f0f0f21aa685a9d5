// The kernels, written once for a `Vec` that each level file defines before it includes this file.
//
// Vec gives: N lanes of float32 (type F), kChunk ranks of a transposed load, kRows x kColumns accumulators of the
// expand tile, kDotSums of the shrink's; load/load_partial/store/store_partial for the three element types, set1, zero, fma, add, mul, div, max, clamp, times_power, sum,
// transpose; load_pairs, which gives N pairs of 16-bit weights as two vectors, the first of each pair and the second; and
// dot<X, W>, which adds the products of kDot<X, W> elements to an accumulator.
//
// Order of accumulation. Every path below keeps it, because punica.h promises the same bits in any batch:
//   shrink  one vector accumulator for a (row, rank), chunks in ascending order, the tail last, then Vec::sum
//   expand  one lane for a (row, output), ranks in ascending order, then one addition to y
// Tiles only choose which of these independent sums are in flight together.

template <class X, class W, int T, int R>
inline void dot_tile(const void* const* xs, const void* const* as, int64_t n, float scale, float* out,
                     int64_t out_stride) {
  using F = typename Vec::F;
  constexpr int64_t step = Vec::template kDot<X, W>;
  const X* x[T];
  const W* a[R];
  for (int t = 0; t < T; ++t) x[t] = static_cast<const X*>(xs[t]);
  for (int r = 0; r < R; ++r) a[r] = static_cast<const W*>(as[r]);
  F acc[T][R];
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) acc[t][r] = Vec::zero();
  int64_t i = 0;
  for (; i + step <= n; i += step) Vec::template dot<X, W, T, R>(acc, x, a, i);
  if (i < n) Vec::template dot_partial<X, W, T, R>(acc, x, a, i, static_cast<int>(n - i));
  for (int t = 0; t < T; ++t)
    for (int r = 0; r < R; ++r) out[t * out_stride + r] = scale * Vec::sum(acc[t][r]);
}

template <class X, class W, int T>
inline void dot_rows(const void* const* x, const void* const* a, int ranks, int64_t n, float scale, float* out,
                     int64_t out_stride) {
  // A single row keeps 8 sums in flight to hide the latency of fma; several rows share what they load instead, with as many
  // sums as registers hold.
  constexpr int R = T == 1 ? 8 : 4 * T <= Vec::kDotSums ? 4 : 2;
  int r = 0;
  for (; r + R <= ranks; r += R) dot_tile<X, W, T, R>(x, a + r, n, scale, out + r, out_stride);
  if constexpr (R == 8) {
    for (; r + 4 <= ranks; r += 4) dot_tile<X, W, T, 4>(x, a + r, n, scale, out + r, out_stride);
  }
  for (; r < ranks; ++r) dot_tile<X, W, T, 1>(x, a + r, n, scale, out + r, out_stride);
}

template <class X, class W>
void shrink(const void* const* x, int tokens, const void* const* a, int ranks, int64_t n, float scale, float* out,
            int64_t out_stride) {
  int t = 0;
  for (; t + 4 <= tokens; t += 4) dot_rows<X, W, 4>(x + t, a, ranks, n, scale, out + t * out_stride, out_stride);
  float* rest = out + t * out_stride;
  switch (tokens - t) {
    case 3: dot_rows<X, W, 3>(x + t, a, ranks, n, scale, rest, out_stride); break;
    case 2: dot_rows<X, W, 2>(x + t, a, ranks, n, scale, rest, out_stride); break;
    case 1: dot_rows<X, W, 1>(x + t, a, ranks, n, scale, rest, out_stride); break;
    default: break;
  }
}

template <class Y>
inline void put(Y* y, typename Vec::F value, int columns, bool add) {
  if (columns >= Vec::N) {
    Vec::store(y, add ? Vec::add(Vec::load(y), value) : value);
  } else {
    Vec::store_partial(y, add ? Vec::add(Vec::load_partial(y, columns), value) : value, columns);
  }
}

#include "ahead.inl"

// An address that may lie beyond the weights. Prefetching it is allowed; computing it by pointer arithmetic is not.
inline void prefetch(const void* from, int64_t bytes) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + static_cast<uintptr_t>(bytes)));
}

// Few rows: each piece of B is transposed in registers and used at once.
template <class W, class Y, int T>
void expand_matvec(const float* const* tmp, const W* b, int64_t stride, int rank, int64_t outputs, void* const* y,
                   bool add) {
  using F = typename Vec::F;
  constexpr int K = Vec::kChunk;
  for (int64_t o = 0; o < outputs; o += Vec::N) {
    const int columns = static_cast<int>(outputs - o < Vec::N ? outputs - o : Vec::N);
    const W* rows = b + o * stride;
    // Weights are prefetched while earlier ones are transposed.
    constexpr int64_t size = sizeof(W);
    for_each_line_ahead(Vec::N, stride * size, rank * size, [rows](int64_t at) { prefetch(rows, at); });
    F acc[T];
    for (int t = 0; t < T; ++t) acc[t] = Vec::zero();
    int j = 0;
    for (; j + K <= rank; j += K) {
      F v[K];
      if (columns == Vec::N) {
        Vec::transpose(rows + j, stride, v);
      } else {
        Vec::transpose_partial(rows + j, stride, columns, K, v);
      }
      for (int k = 0; k < K; ++k)
        for (int t = 0; t < T; ++t) acc[t] = Vec::fma(v[k], Vec::set1(tmp[t][j + k]), acc[t]);
    }
    if (j < rank) {
      F v[K];
      Vec::transpose_partial(rows + j, stride, columns, rank - j, v);
      for (int k = 0; k < rank - j; ++k)
        for (int t = 0; t < T; ++t) acc[t] = Vec::fma(v[k], Vec::set1(tmp[t][j + k]), acc[t]);
    }
    for (int t = 0; t < T; ++t) put(static_cast<Y*>(y[t]) + o, acc[t], columns, add);
  }
}

// Many rows: T rows times kColumns vectors of outputs, against a panel of B that is already transposed.
template <class Y, int T>
inline void expand_tile(const float* const* tmp, const float* panel, int rank, int columns, void* const* y, int64_t o,
                        bool add) {
  using F = typename Vec::F;
  constexpr int C = Vec::kColumns;
  F acc[T][C];
  for (int t = 0; t < T; ++t)
    for (int c = 0; c < C; ++c) acc[t][c] = Vec::zero();
  const float* rows[T];
  for (int t = 0; t < T; ++t) rows[t] = tmp[t];
  for (int j = 0; j < rank; ++j) {
    F v[C];
    for (int c = 0; c < C; ++c) v[c] = Vec::load(panel + j * (C * Vec::N) + c * Vec::N);
    for (int t = 0; t < T; ++t) {
      const F x = Vec::set1(rows[t][j]);
      for (int c = 0; c < C; ++c) acc[t][c] = Vec::fma(v[c], x, acc[t][c]);
    }
  }
  for (int t = 0; t < T; ++t) {
    for (int c = 0; c < C; ++c) {
      const int left = columns - c * Vec::N;
      if (left > 0) put(static_cast<Y*>(y[t]) + o + c * Vec::N, acc[t][c], left, add);
    }
  }
}

template <class Y, int T>
inline void expand_rest(int rows, const float* const* tmp, const float* panel, int rank, int columns, void* const* y,
                        int64_t o, bool add) {
  if constexpr (T > 0) {
    if (rows == T) {
      expand_tile<Y, T>(tmp, panel, rank, columns, y, o, add);
    } else {
      expand_rest<Y, T - 1>(rows, tmp, panel, rank, columns, y, o, add);
    }
  }
}

template <class W>
inline void make_panel(const W* b, int64_t stride, int rank, int columns, float* panel) {
  using F = typename Vec::F;
  constexpr int K = Vec::kChunk;
  constexpr int width = Vec::kColumns * Vec::N;
  for (int c = 0; c < width; c += Vec::N) {
    const int here = columns - c < 0 ? 0 : (columns - c < Vec::N ? columns - c : Vec::N);
    const W* rows = b + (here > 0 ? c * stride : 0);
    for (int j = 0; j < rank; j += K) {
      const int ranks = rank - j < K ? rank - j : K;
      F v[K];
      if (here == Vec::N && ranks == K) {
        Vec::transpose(rows + j, stride, v);
      } else {
        Vec::transpose_partial(rows + j, stride, here, ranks, v);
      }
      for (int k = 0; k < ranks; ++k) Vec::store(panel + (j + k) * width + c, v[k]);
    }
  }
}

// All rows of a block against one panel.
template <class Y>
inline void expand_tiles(const float* const* tmp, int tokens, const float* panel, int rank, int columns, void* const* y,
                         int64_t o, bool add) {
  int t = 0;
  for (; t + Vec::kRows <= tokens; t += Vec::kRows)
    expand_tile<Y, Vec::kRows>(tmp + t, panel, rank, columns, y + t, o, add);
  expand_rest<Y, Vec::kRows - 1>(tokens - t, tmp + t, panel, rank, columns, y + t, o, add);
}

template <class W, class Y>
void expand(const float* const* tmp, int tokens, const void* weights, int64_t stride, int rank, int64_t outputs,
            void* const* y, bool add, float* panel) {
  const W* b = static_cast<const W*>(weights);
  static_assert(kMatvecRows == 4, "the cases below");
  switch (tokens) {
    case 0: return;
    case 1: return expand_matvec<W, Y, 1>(tmp, b, stride, rank, outputs, y, add);
    case 2: return expand_matvec<W, Y, 2>(tmp, b, stride, rank, outputs, y, add);
    case 3: return expand_matvec<W, Y, 3>(tmp, b, stride, rank, outputs, y, add);
    case 4: return expand_matvec<W, Y, 4>(tmp, b, stride, rank, outputs, y, add);
    default: break;
  }
  constexpr int width = Vec::kColumns * Vec::N;
  static_assert(width <= kPanelColumns, "panel scratch");
  for (int64_t o = 0; o < outputs; o += width) {
    const int columns = static_cast<int>(outputs - o < width ? outputs - o : width);
    make_panel(b + o * stride, stride, rank, columns, panel);
    expand_tiles<Y>(tmp, tokens, panel, rank, columns, y, o, add);
  }
}

#include "interleaved.inl"

template <class T>
void norm(const void* xs, void* residuals, const void* weights, void* outs, int64_t n, float epsilon, float* wide) {
  using F = typename Vec::F;
  const T* x = static_cast<const T*>(xs);
  T* residual = static_cast<T*>(residuals);
  const T* weight = static_cast<const T*>(weights);
  T* out = static_cast<T*>(outs);
  constexpr int kSums = 4;  // in flight together; which element goes to which depends on its column only
  F squares[kSums];
  for (F& sum : squares) sum = Vec::zero();
  int64_t i = 0;
  int turn = 0;
  for (; i + Vec::N <= n; i += Vec::N, turn = (turn + 1) % kSums) {
    F v = Vec::load(x + i);
    if (residual) {
      v = Vec::add(v, Vec::load(residual + i));
      Vec::store(residual + i, v);
    }
    Vec::store(wide + i, v);
    squares[turn] = Vec::fma(v, v, squares[turn]);
  }
  const int rest = static_cast<int>(n - i);
  if (rest > 0) {
    F v = Vec::load_partial(x + i, rest);
    if (residual) {
      v = Vec::add(v, Vec::load_partial(residual + i, rest));
      Vec::store_partial(residual + i, v, rest);
    }
    Vec::store_partial(wide + i, v, rest);
    squares[turn] = Vec::fma(v, v, squares[turn]);
  }
  const float sum = Vec::sum(Vec::add(Vec::add(squares[0], squares[1]), Vec::add(squares[2], squares[3])));
  const F scale = Vec::set1(1.0f / std::sqrt(sum / static_cast<float>(n) + epsilon));
  for (i = 0; i + Vec::N <= n; i += Vec::N)
    Vec::store(out + i, Vec::mul(Vec::mul(Vec::load(wide + i), scale), Vec::load(weight + i)));
  if (rest > 0) {
    const F v = Vec::mul(Vec::mul(Vec::load_partial(wide + i, rest), scale), Vec::load_partial(weight + i, rest));
    Vec::store_partial(out + i, v, rest);
  }
}

// exp to about two units in the last place: 2^k times a polynomial of the rest (Cephes' coefficients). k comes from an
// addition that leaves it in the low bits of the sum.
inline typename Vec::F exp_of(typename Vec::F x) {
  using F = typename Vec::F;
  x = Vec::clamp(x, -87.0f, 88.0f);
  const F magic = Vec::set1(12582912.0f);  // 1.5 * 2^23
  const F shifted = Vec::fma(x, Vec::set1(1.44269504088896341f), magic);
  const F k = Vec::add(shifted, Vec::set1(-12582912.0f));
  F rest = Vec::fma(k, Vec::set1(-0.693359375f), x);
  rest = Vec::fma(k, Vec::set1(2.12194440e-4f), rest);
  F sum = Vec::set1(1.9875691500e-4f);
  sum = Vec::fma(sum, rest, Vec::set1(1.3981999507e-3f));
  sum = Vec::fma(sum, rest, Vec::set1(8.3334519073e-3f));
  sum = Vec::fma(sum, rest, Vec::set1(4.1665795894e-2f));
  sum = Vec::fma(sum, rest, Vec::set1(1.6666665459e-1f));
  sum = Vec::fma(sum, rest, Vec::set1(5.0000001201e-1f));
  sum = Vec::add(Vec::fma(sum, Vec::mul(rest, rest), rest), Vec::set1(1.0f));
  return Vec::times_power(sum, shifted);
}

// A function: a lambda without captures also is a plain function pointer, which GCC makes without the pragma's target.
inline typename Vec::F silu_mul_of(typename Vec::F gate, typename Vec::F up) {
  const typename Vec::F e = exp_of(Vec::mul(gate, Vec::set1(-1.0f)));
  return Vec::mul(Vec::div(gate, Vec::add(e, Vec::set1(1.0f))), up);
}

template <class T>
void silu_mul(const void* gates, const void* ups, void* outs, int64_t n) {
  const T* gate = static_cast<const T*>(gates);
  const T* up = static_cast<const T*>(ups);
  T* out = static_cast<T*>(outs);
  int64_t i = 0;
  for (; i + Vec::N <= n; i += Vec::N) Vec::store(out + i, silu_mul_of(Vec::load(gate + i), Vec::load(up + i)));
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    Vec::store_partial(out + i, silu_mul_of(Vec::load_partial(gate + i, rest), Vec::load_partial(up + i, rest)), rest);
  }
}

template <class T>
void rope(void* head, const void* cos_sin, int64_t half) {
  using F = typename Vec::F;
  T* low = static_cast<T*>(head);
  T* high = low + half;
  const T* cosine = static_cast<const T*>(cos_sin);
  const T* sine = cosine + half;
  for (int64_t i = 0; i < half; i += Vec::N) {
    const int n = static_cast<int>(half - i < Vec::N ? half - i : Vec::N);
    const bool whole = n == Vec::N;
    const F a = whole ? Vec::load(low + i) : Vec::load_partial(low + i, n);
    const F b = whole ? Vec::load(high + i) : Vec::load_partial(high + i, n);
    const F c = whole ? Vec::load(cosine + i) : Vec::load_partial(cosine + i, n);
    const F s = whole ? Vec::load(sine + i) : Vec::load_partial(sine + i, n);
    put(low + i, Vec::fma(a, c, Vec::mul(Vec::mul(b, Vec::set1(-1.0f)), s)), n, false);
    put(high + i, Vec::fma(b, c, Vec::mul(a, s)), n, false);
  }
}

#include "attention.inl"

#define TRITONODE_SHRINK_ROW(X) {shrink<X, float>, shrink<X, float16>, shrink<X, bfloat16>}
#define TRITONODE_EXPAND_ROW(W) {expand<W, float>, expand<W, float16>, expand<W, bfloat16>}
#define TRITONODE_INTERLEAVED_ROW(W) \
  {expand_interleaved<W, float>, expand_interleaved<W, float16>, expand_interleaved<W, bfloat16>}
const Kernels kTable = {
    {TRITONODE_SHRINK_ROW(float), TRITONODE_SHRINK_ROW(float16), TRITONODE_SHRINK_ROW(bfloat16)},
    {TRITONODE_EXPAND_ROW(float), TRITONODE_EXPAND_ROW(float16), TRITONODE_EXPAND_ROW(bfloat16)},
    {TRITONODE_INTERLEAVED_ROW(float), TRITONODE_INTERLEAVED_ROW(float16), TRITONODE_INTERLEAVED_ROW(bfloat16)},
    {norm<float>, norm<float16>, norm<bfloat16>},
    {silu_mul<float>, silu_mul<float16>, silu_mul<bfloat16>},
    {rope<float>, rope<float16>, rope<bfloat16>},
    {attend<float>, attend<float16>, attend<bfloat16>},
    merge_row,
    {finish_row<float>, finish_row<float16>, finish_row<bfloat16>},
    {widen_row<float>, widen_row<float16>, widen_row<bfloat16>},
};
#undef TRITONODE_SHRINK_ROW
#undef TRITONODE_EXPAND_ROW
#undef TRITONODE_INTERLEAVED_ROW
