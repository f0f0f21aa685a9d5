// Vec::dot and dot_partial: widen to float32, then fma. AVX-512 BF16 has its own, AVX2 for bfloat16 by bfloat16. Included
// inside struct Vec, which says how many elements kDot<X, W> are.

template <class X, class W, int T, int R>
static inline void dot(F (&acc)[T][R], const X* const (&x)[T], const W* const (&a)[R], int64_t i) {
  F v[T];
  for (int t = 0; t < T; ++t) v[t] = load(x[t] + i);
  for (int r = 0; r < R; ++r) {
    const F w = load(a[r] + i);
    for (int t = 0; t < T; ++t) acc[t][r] = fma(v[t], w, acc[t][r]);
  }
}

template <class X, class W, int T, int R>
static inline void dot_partial(F (&acc)[T][R], const X* const (&x)[T], const W* const (&a)[R], int64_t i, int n) {
  F v[T];
  for (int t = 0; t < T; ++t) v[t] = load_partial(x[t] + i, n);
  for (int r = 0; r < R; ++r) {
    const F w = load_partial(a[r] + i, n);
    for (int t = 0; t < T; ++t) acc[t][r] = fma(v[t], w, acc[t][r]);
  }
}
