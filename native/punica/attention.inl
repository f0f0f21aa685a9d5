// Attention over a paged KV cache, once over a `Vec`. Included by kernels.inl.
//
// Order of accumulation, for each pair of a token and a head, whatever else is in the step:
//   score      one lane, elements of the head in ascending order
//   softmax    keys in tiles of kTileKeys at fixed positions of the sequence; a tile's sum is that of its lanes
//   output     one lane, keys in ascending order, rescaled where a tile raises the maximum
// Partitions of kPartitionKeys start anew and are merged in ascending order (attention.cc), so that threads may share a
// long sequence. Keys that a row does not see have the weight zero, which leaves its sums as they are.

// S[r][0..kTileKeys) = dot(query[r], key): `keys[i]` are [head_size][16] keys each.
template <class T, int R>
inline void score_rows(const float* query, int64_t query_stride, const void* const* keys, int64_t head_size,
                       float* scores) {
  using F = typename Vec::F;
  constexpr int C = Vec::kColumns;
  constexpr int kStep = C * Vec::N;
  static_assert(kTileKeys % Vec::N == 0 && kPageKeys % Vec::N == 0);
  for (int first = 0; first < kTileKeys; first += kStep) {
    const T* k[C];
    for (int c = 0; c < C; ++c) {
      const int key = first + c * Vec::N < kTileKeys ? first + c * Vec::N : 0;
      k[c] = static_cast<const T*>(keys[key / kPageKeys]) + key % kPageKeys;
    }
    F acc[R][C];
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) acc[r][c] = Vec::zero();
    for (int64_t d = 0; d < head_size; ++d) {
      F v[C];
      for (int c = 0; c < C; ++c) v[c] = Vec::load(k[c] + d * kPageKeys);
      for (int r = 0; r < R; ++r) {
        const F q = Vec::set1(query[r * query_stride + d]);
        for (int c = 0; c < C; ++c) acc[r][c] = Vec::fma(v[c], q, acc[r][c]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C && first + c * Vec::N < kTileKeys; ++c)
        Vec::store(scores + r * kTileKeys + first + c * Vec::N, acc[r][c]);
  }
}

// W vectors of columns of weigh_rows().
template <class T, int R, int W>
inline void weigh_columns(const float* weights, const float* scale, const void* const* values, int count,
                          int64_t head_size, int64_t d, float* out) {
  using F = typename Vec::F;
  F acc[R][W];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < W; ++c)
      acc[r][c] = Vec::mul(Vec::load(out + r * head_size + d + c * Vec::N), Vec::set1(scale[r]));
  for (int page = 0; page * kPageKeys < count; ++page) {
    const T* value = static_cast<const T*>(values[page]) + d;
    const int last = count - page * kPageKeys < kPageKeys ? count - page * kPageKeys : kPageKeys;
    for (int key = 0; key < last; ++key) {
      F v[W];
      for (int c = 0; c < W; ++c) v[c] = Vec::load(value + key * head_size + c * Vec::N);
      for (int r = 0; r < R; ++r) {
        const F p = Vec::set1(weights[r * kTileKeys + page * kPageKeys + key]);
        for (int c = 0; c < W; ++c) acc[r][c] = Vec::fma(v[c], p, acc[r][c]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < W; ++c) Vec::store(out + r * head_size + d + c * Vec::N, acc[r][c]);
}

// out[r] = out[r] * scale[r] + sum over keys < count of weights[r][key] * values[key].
template <class T, int R>
inline void weigh_rows(const float* weights, const float* scale, const void* const* values, int count,
                       int64_t head_size, float* out) {
  constexpr int C = Vec::kColumns;
  int64_t d = 0;
  for (; d + C * Vec::N <= head_size; d += C * Vec::N)
    weigh_columns<T, R, C>(weights, scale, values, count, head_size, d, out);
  for (; d < head_size; d += Vec::N) weigh_columns<T, R, 1>(weights, scale, values, count, head_size, d, out);
}

template <class T, int R>
inline void score_rest(int rows, const float* query, int64_t query_stride, const void* const* keys, int64_t head_size,
                       float* scores) {
  if constexpr (R > 0) {
    if (rows == R) {
      score_rows<T, R>(query, query_stride, keys, head_size, scores);
    } else {
      score_rest<T, R - 1>(rows, query, query_stride, keys, head_size, scores);
    }
  }
}

template <class T, int R>
inline void weigh_rest(int rows, const float* weights, const float* scale, const void* const* values, int count,
                       int64_t head_size, float* out) {
  if constexpr (R > 0) {
    if (rows == R) {
      weigh_rows<T, R>(weights, scale, values, count, head_size, out);
    } else {
      weigh_rest<T, R - 1>(rows, weights, scale, values, count, head_size, out);
    }
  }
}

// tanh(s / cap) * cap, with tanh(x) = 1 - 2 / (exp(2 x) + 1).
inline typename Vec::F cap_of(typename Vec::F score, float cap) {
  const typename Vec::F e = exp_of(Vec::mul(score, Vec::set1(2.0f / cap)));
  const typename Vec::F fraction = Vec::div(Vec::set1(-2.0f), Vec::add(e, Vec::set1(1.0f)));
  return Vec::mul(Vec::add(Vec::set1(1.0f), fraction), Vec::set1(cap));
}

inline float exp_of_one(float x) {
  float lanes[Vec::N];
  Vec::store(lanes, exp_of(Vec::set1(x)));
  return lanes[0];
}

// Turns a row's scores of a tile into weights, in place, and returns the factor that earlier tiles are scaled by. The
// row sees the keys [from, to) of the tile.
inline float softmax_row(float* scores, int from, int to, float cap, float& maximum, float& sum) {
  using F = typename Vec::F;
  if (cap > 0.0f) {
    for (int key = 0; key < kTileKeys; key += Vec::N) Vec::store(scores + key, cap_of(Vec::load(scores + key), cap));
  }
  for (int key = 0; key < from; ++key) scores[key] = kUnseen;
  for (int key = to; key < kTileKeys; ++key) scores[key] = kUnseen;
  F highest = Vec::set1(maximum);
  for (int key = 0; key < kTileKeys; key += Vec::N) highest = Vec::max(highest, Vec::load(scores + key));
  float lanes[Vec::N];
  Vec::store(lanes, highest);
  float now = lanes[0];
  for (int i = 1; i < Vec::N; ++i) now = lanes[i] > now ? lanes[i] : now;
  const float scale = exp_of_one(maximum - now);
  for (int key = 0; key < kTileKeys; key += Vec::N)
    Vec::store(scores + key, exp_of(Vec::add(Vec::load(scores + key), Vec::set1(-now))));
  for (int key = 0; key < from; ++key) scores[key] = 0.0f;
  for (int key = to; key < kTileKeys; ++key) scores[key] = 0.0f;
  F total = Vec::zero();
  for (int key = 0; key < kTileKeys; key += Vec::N) total = Vec::add(total, Vec::load(scores + key));
  sum = sum * scale + Vec::sum(total);
  maximum = now;
  return scale;
}

template <class T>
void attend(const AttentionRows& rows, const void* const* keys, const void* const* values, int64_t first,
            float* scores) {
  constexpr int R = Vec::kRows;
  int64_t seen = 0;
  for (int r = 0; r < rows.count; ++r) seen = rows.to[r] > seen ? rows.to[r] : seen;
  const int count = static_cast<int>(seen - first < kTileKeys ? seen - first : kTileKeys);
  int r = 0;
  for (; r + R <= rows.count; r += R)
    score_rows<T, R>(rows.query + r * rows.head_size, rows.head_size, keys, rows.head_size, scores + r * kTileKeys);
  score_rest<T, R - 1>(rows.count - r, rows.query + r * rows.head_size, rows.head_size, keys, rows.head_size,
                       scores + r * kTileKeys);
  float scale[kAttentionRows];
  for (r = 0; r < rows.count; ++r) {
    const auto inside = [first](int64_t key) {
      return static_cast<int>(key <= first ? 0 : key - first < kTileKeys ? key - first : kTileKeys);
    };
    const int from = inside(rows.from[r]), to = inside(rows.to[r]);
    scale[r] = softmax_row(scores + r * kTileKeys, from < to ? from : to, to, rows.cap, rows.maximum[r], rows.sum[r]);
  }
  for (r = 0; r + R <= rows.count; r += R)
    weigh_rows<T, R>(scores + r * kTileKeys, scale + r, values, count, rows.head_size, rows.out + r * rows.head_size);
  weigh_rest<T, R - 1>(rows.count - r, scores + r * kTileKeys, scale + r, values, count, rows.head_size,
                       rows.out + r * rows.head_size);
}

// total (+)= part: two softmaxes over different keys as one.
inline void merge_row(float* out, float& maximum, float& sum, const float* part, float part_maximum, float part_sum,
                      int64_t n) {
  const float now = maximum > part_maximum ? maximum : part_maximum;
  const float mine = exp_of_one(maximum - now), theirs = exp_of_one(part_maximum - now);
  sum = sum * mine + part_sum * theirs;
  maximum = now;
  for (int64_t d = 0; d < n; d += Vec::N)
    Vec::store(out + d, Vec::fma(Vec::load(out + d), Vec::set1(mine), Vec::mul(Vec::load(part + d), Vec::set1(theirs))));
}

template <class T>
void finish_row(const float* in, float sum, void* outs, int64_t n) {
  T* out = static_cast<T*>(outs);
  // A row that sees no key is zero. Adding zero makes a negative zero positive: which of them a masked key leaves
  // would depend on the neighbours.
  const typename Vec::F by = Vec::set1(sum > 0.0f || sum != sum ? 1.0f / sum : 0.0f);
  for (int64_t d = 0; d < n; d += Vec::N)
    Vec::store(out + d, Vec::add(Vec::mul(Vec::load(in + d), by), Vec::zero()));
}

template <class T>
void widen_row(const void* in, float scale, float* out, int64_t n) {
  for (int64_t d = 0; d < n; d += Vec::N)
    Vec::store(out + d, Vec::mul(Vec::load(static_cast<const T*>(in) + d), Vec::set1(scale)));
}
