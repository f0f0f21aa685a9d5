// The kernels themselves, written once over a `Vec` that each level file defines before including this one.
//
// Vec gives 16 lanes of float32 (F), of int32 (I) and 64 bytes (B):
//   zero, set1, fma, mul, add, load<T>, store(T*), store_partial(T*, n), from_int;  T: float, float16, bfloat16
//   set1_int, add_128 (of I: a + 128 * b), load_bytes, low_nibbles, high_nibbles, low_pairs, high_pairs (of 32 bfloat16
//     those of even and of odd number)
//   dot4(I, B, q) and dot8(I, B, q): each lane adds the four products of its bytes with those of q (int8);
//     for dot4 bytes are 0..15; for dot8 they are int8 plus 128, taken as that if kByteZero is 128, else put right
//   if kWords, dot_words in place of dot8: each lane adds the products of two unsigned bytes, even_bytes or odd_bytes of B,
//     with two int16
//   if kShortSums, dot4_short in place of dot4: lanes of 16 bits, which hold a run's sums, and add_shorts(I, B)
//   dot_pairs(F, B, pair) if kPairs; and then, as bfloat16 less a zero point, nibble_pairs<i>(nibble_table(zero), B), the
//     i-th nibbles (from the lowest) of each 16 bits, and byte_pairs<i>(B, zero), the i-th bytes of each 16 bits
//
// Order of accumulation, which every height keeps (the header's promise rests on it):
//   float kinds  two sums for an output, of the inputs (or pairs) of even and of odd number, ascending, then their sum
//   quants       whole numbers within a run; then one sum over runs, ascending: first scales, then minimums. Times
//                bfloat16: one sum of a run's pairs, vector by vector, in place of whole numbers
// Heights only choose which rows share what is loaded.

template <int T>
inline void emit(const typename Vec::F (&sums)[T], const Output& out) {
  using F = typename Vec::F;
  F bias = Vec::zero();
  if (out.bias) {
    alignas(64) float wide[Vec::N];
    for (int i = 0; i < Vec::N; ++i) {
      wide[i] = 0.0f;
      if (i >= out.columns) continue;
      switch (out.bias_dtype) {
        case TRITONODE_PUNICA_FLOAT32: wide[i] = static_cast<const float*>(out.bias)[i]; break;
        case TRITONODE_PUNICA_FLOAT16: wide[i] = to_float(static_cast<const float16*>(out.bias)[i]); break;
        default: wide[i] = to_float(static_cast<const bfloat16*>(out.bias)[i]); break;
      }
    }
    bias = Vec::load(wide);
  }
  const auto put = [&out](auto* to, F value) {
    if (out.columns == Vec::N) {
      Vec::store(to, value);
    } else {
      Vec::store_partial(to, value, out.columns);
    }
  };
  for (int t = 0; t < T; ++t) {
    if (t >= out.count) break;
    const F value = out.bias ? Vec::add(sums[t], bias) : sums[t];
    switch (out.dtype) {
      case TRITONODE_PUNICA_FLOAT32: put(static_cast<float*>(out.rows[t]), value); break;
      case TRITONODE_PUNICA_FLOAT16: put(static_cast<float16*>(out.rows[t]), value); break;
      default: put(static_cast<bfloat16*>(out.rows[t]), value); break;
    }
  }
}

// Weights are read once, in order: far enough ahead to hide memory, near enough to stay in the first cache.
inline constexpr int64_t kAhead = 2048;
inline void prefetch(const uint8_t* from) {
  __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + kAhead));
}

// Two inputs of 16 outputs: no more at once, so that weights and sums fit into 16 registers of 256 bits.
inline void two(const float* w, typename Vec::F (&out)[2]) {
  for (int i = 0; i < 2; ++i) {
    prefetch(reinterpret_cast<const uint8_t*>(w + i * Vec::N));
    out[i] = Vec::load(w + i * Vec::N);
  }
}
inline void two(const float16* w, typename Vec::F (&out)[2]) {
  prefetch(reinterpret_cast<const uint8_t*>(w));
  for (int i = 0; i < 2; ++i) out[i] = Vec::load(w + i * Vec::N);
}
inline void two(const bfloat16* w, typename Vec::F (&out)[2]) {
  const uint8_t* at = reinterpret_cast<const uint8_t*>(w);
  prefetch(at);
  const typename Vec::B both = Vec::load_bytes(at);
  out[0] = Vec::low_pairs(both);
  out[1] = Vec::high_pairs(both);
}

template <class W, int T>
void multiply_floats(const Block& block, const Tile& tile, const Output& out) {
  using F = typename Vec::F;
  F even[T], odd[T];
  for (int t = 0; t < T; ++t) even[t] = odd[t] = Vec::zero();
  const W* w = reinterpret_cast<const W*>(block.weights);
  const float* x = static_cast<const float*>(tile.x);
  for (int64_t step = 0; step < 2 * block.steps; ++step, w += 2 * Vec::N, x += 2 * T) {
    F v[2];
    two(w, v);
    for (int t = 0; t < T; ++t) {
      even[t] = Vec::fma(v[0], Vec::set1(x[t]), even[t]);
      odd[t] = Vec::fma(v[1], Vec::set1(x[T + t]), odd[t]);
    }
  }
  for (int t = 0; t < T; ++t) even[t] = Vec::add(even[t], odd[t]);
  emit<T>(even, out);
}

// A template over the Vec: names that a level without such an instruction lacks are looked up only where they are used.
template <class V, int T>
void multiply_pairs(const Block& block, const Tile& tile, const Output& out) {
  if constexpr (V::kPairs) {
    typename V::F even[T], odd[T];
    for (int t = 0; t < T; ++t) even[t] = odd[t] = V::zero();
    const uint8_t* w = block.weights;
    const int32_t* x = static_cast<const int32_t*>(tile.x);
    for (int64_t step = 0; step < block.steps; ++step, w += 128, x += 2 * T) {
      prefetch(w);
      prefetch(w + 64);
      const typename V::B first = V::load_bytes(w), second = V::load_bytes(w + 64);
      for (int t = 0; t < T; ++t) {
        even[t] = V::dot_pairs(even[t], first, x[t]);
        odd[t] = V::dot_pairs(odd[t], second, x[T + t]);
      }
    }
    for (int t = 0; t < T; ++t) even[t] = V::add(even[t], odd[t]);
    emit<T>(even, out);
  }
}

// The scales and minimums of the group that the current run belongs to.
class Constants {
 public:
  explicit Constants(const Block& block) : block_(block), scale_at_(block.scales), minimum_at_(block.minimums) {}

  bool has_minimums() const { return minimum_at_ != nullptr; }
  // For each run, before its constants are used.
  void next_run() {
    if (left_ == 0) {
      left_ = block_.runs_of_group;
      take(scale_at_, block_.half_scales, scales);
      if (minimum_at_) take(minimum_at_, block_.half_minimums, minimums);
    }
    --left_;
  }

  typename Vec::F scales = Vec::zero(), minimums = Vec::zero();

 private:
  static void take(const uint8_t*& from, bool half, typename Vec::F& to) {
    to = half ? Vec::load(reinterpret_cast<const float16*>(from)) : Vec::load(reinterpret_cast<const float*>(from));
    prefetch(from);
    from += half ? 2 * Vec::N : 4 * Vec::N;
  }

  const Block& block_;
  const uint8_t* scale_at_;
  const uint8_t* minimum_at_;
  int64_t left_ = 0;
};

// Adds a run's products, which are whole numbers. A template over the Vec: see multiply_pairs.
template <class V, int Bits, int Run, int T>
inline void dot_run(const uint8_t* w, const int32_t* x, typename V::I (&dots)[T]) {
  using B = typename V::B;
  constexpr int kSteps = Run / 4;
  if constexpr (Bits == 4) {
    const auto each = [w, x](auto add) {
      for (int v = 0; v < kSteps / 2; ++v) {
        const uint8_t* from = w + 64 * v;
        prefetch(from);
        const B both = V::load_bytes(from);
        const B low = V::low_nibbles(both), high = V::high_nibbles(both);
        for (int t = 0; t < T; ++t) add(t, low, x[v * T + t]);
        for (int t = 0; t < T; ++t) add(t, high, x[(v + kSteps / 2) * T + t]);
      }
    };
    if constexpr (V::kShortSums) {
      static_assert(kSteps * 2 * 15 * 128 < 32768, "a run's sum of two products each fits into 16 bits");
      B sums[T];
      for (int t = 0; t < T; ++t) sums[t] = V::no_bytes();
      each([&sums](int t, B nibbles, int32_t q) { sums[t] = V::dot4_short(sums[t], nibbles, q); });
      for (int t = 0; t < T; ++t) dots[t] = V::add_shorts(dots[t], sums[t]);
    } else {
      each([&dots](int t, B nibbles, int32_t q) { dots[t] = V::dot4(dots[t], nibbles, q); });
    }
  } else if constexpr (V::kWords) {
    for (int v = 0; v < kSteps; ++v, w += 64, x += 2 * T) {
      prefetch(w);
      const B bytes = V::load_bytes(w);
      const B even = V::even_bytes(bytes), odd = V::odd_bytes(bytes);
      for (int t = 0; t < T; ++t) dots[t] = V::dot_words(dots[t], even, x[t]);
      for (int t = 0; t < T; ++t) dots[t] = V::dot_words(dots[t], odd, x[T + t]);
    }
  } else {
    for (int v = 0; v < kSteps; ++v, w += 64) {
      prefetch(w);
      const B bytes = V::load_bytes(w);
      for (int t = 0; t < T; ++t) dots[t] = V::dot8(dots[t], bytes, x[v * T + t]);
    }
  }
}

template <int Bits, bool Wide, int Run, int T>
void multiply_quants(const Block& block, const Tile& tile, const Output& out) {
  using F = typename Vec::F;
  using I = typename Vec::I;
  constexpr bool kWords = Bits == 8 && Vec::kWords;
  constexpr int kParts = Wide && !kWords ? 2 : 1;
  constexpr int kBytes = kWords ? 2 : kParts;  // of an element of x
  F sums[T];
  for (int t = 0; t < T; ++t) sums[t] = Vec::zero();
  Constants constants(block);
  const uint8_t* w = block.weights;
  const int32_t* x = static_cast<const int32_t*>(tile.x);
  const float* x_scale = tile.scale;
  const float* x_sum = tile.sum;
  const int32_t* x_offset = tile.offset;
  for (int64_t run = 0; run < block.steps; ++run, w += Run * Vec::N * Bits / 8, x += Run / 4 * kBytes * T, x_scale += T,
               x_sum += T, x_offset += T) {
    constants.next_run();
    I dots[kParts * T];  // of two parts: those of the higher parts, then those of the lower ones
    for (int t = 0; t < T; ++t) {
      dots[t] = Vec::set1_int(0);
      dots[(kParts - 1) * T + t] = Vec::set1_int(x_offset[t]);
    }
    dot_run<Vec, Bits, Run, kParts * T>(w, x, dots);
    if constexpr (kParts == 2) {
      for (int t = 0; t < T; ++t) dots[t] = Vec::add_128(dots[T + t], dots[t]);
    }
    for (int t = 0; t < T; ++t)
      sums[t] = Vec::fma(Vec::mul(constants.scales, Vec::set1(x_scale[t])), Vec::from_int(dots[t]), sums[t]);
    if (constants.has_minimums()) {
      for (int t = 0; t < T; ++t) sums[t] = Vec::fma(constants.minimums, Vec::set1(x_sum[t]), sums[t]);
    }
  }
  emit<T>(sums, out);
}

// Weights become bfloat16, which holds 9 bits with a sign exactly, and products of bfloat16 are exact: nothing of x is
// rounded.
template <class V, int Bits, int Run, int T>
void multiply_quant_pairs(const Block& block, const Tile& tile, const Output& out) {
  if constexpr (V::kPairs) {
    using F = typename V::F;
    constexpr int kVectors = Run * Bits / 32;
    const typename V::B table = V::nibble_table(block.zero);
    F sums[T];
    for (int t = 0; t < T; ++t) sums[t] = V::zero();
    Constants constants(block);
    const uint8_t* w = block.weights;
    const int32_t* x = static_cast<const int32_t*>(tile.x);
    const float* x_sum = tile.sum;
    for (int64_t run = 0; run < block.steps; ++run, x += Run / 2 * T, x_sum += T) {
      constants.next_run();
      F dots[T];
      for (int t = 0; t < T; ++t) dots[t] = V::zero();
      for (int v = 0; v < kVectors; ++v, w += 64) {
        prefetch(w);
        const typename V::B both = V::load_bytes(w);
        const auto add = [&dots](typename V::B pairs, const int32_t* of) {
          for (int t = 0; t < T; ++t) dots[t] = V::dot_pairs(dots[t], pairs, of[t]);
        };
        const int32_t* low = x + v * 2 * T;
        if constexpr (Bits == 4) {
          const int32_t* high = low + kVectors * 2 * T;
          add(V::template nibble_pairs<0>(table, both), low);
          add(V::template nibble_pairs<2>(table, both), low + T);
          add(V::template nibble_pairs<1>(table, both), high);
          add(V::template nibble_pairs<3>(table, both), high + T);
        } else {
          add(V::template byte_pairs<0>(both, block.zero), low);
          add(V::template byte_pairs<1>(both, block.zero), low + T);
        }
      }
      for (int t = 0; t < T; ++t) sums[t] = V::fma(constants.scales, dots[t], sums[t]);
      if (constants.has_minimums()) {
        for (int t = 0; t < T; ++t) sums[t] = V::fma(constants.minimums, V::set1(x_sum[t]), sums[t]);
      }
    }
    emit<T>(sums, out);
  }
}

inline void sum_runs(const float* x, int64_t runs, int run, float* sum) {
  for (int64_t r = 0; r < runs; ++r) {
    float parts[8] = {};  // which compilers make a vector of
    for (int i = 0; i < run; i += 8)
      for (int j = 0; j < 8; ++j) parts[j] += x[r * run + i + j];
    sum[r] = ((parts[0] + parts[4]) + (parts[2] + parts[6])) + ((parts[1] + parts[5]) + (parts[3] + parts[7]));
  }
}

template <class X>
void widen(const void* row, int64_t n, int64_t padded, float* out) {
  const X* x = static_cast<const X*>(row);
  int64_t i = 0;
  for (; i + Vec::N <= n; i += Vec::N) Vec::store(out + i, Vec::load(x + i));
  for (; i < n; ++i) out[i] = to_float(x[i]);
  for (; i < padded; ++i) out[i] = 0.0f;
}

// Plain loops of fixed length, on whole numbers where they compare: compilers make vectors of them at every level.
template <bool Wide, int Run, class Q>
inline void quantise_run(const float* x, Q* quants, int8_t* low, float& scale, int32_t& sum) {
  constexpr float kMost = Wide ? 127.0f * 128.0f : 127.0f;
  uint32_t largest = 0;  // magnitudes compare as their bits do; a NaN is the largest
  for (int i = 0; i < Run; ++i) {
    const uint32_t bits = std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu;
    largest = largest > bits ? largest : bits;
  }
  const float most = std::bit_cast<float>(largest);
  const float inverse = most > 0x1p-112f ? kMost / most : 0.0f;
  scale = most / kMost;
  int32_t total = 0;
  for (int i = 0; i < Run; ++i) {
    // The addition rounds to a whole number, ties to even, and leaves it in the low bits.
    const float shifted = x[i] * inverse + 12582912.0f;  // 1.5 * 2^23
    const int32_t whole = static_cast<int32_t>(std::bit_cast<uint32_t>(shifted) - 0x4b400000u);
    if constexpr (Wide) {
      const int16_t q = static_cast<int16_t>(whole);  // of a NaN any number, but a sum that does not overflow
      if constexpr (sizeof(Q) == 2) {
        quants[i] = q;
      } else {
        const int32_t high = (q + 64) >> 7;
        quants[i] = static_cast<int8_t>(high);
        low[i] = static_cast<int8_t>(q - 128 * high);
      }
      total += q;
    } else {
      const int8_t q = static_cast<int8_t>(whole);
      quants[i] = q;
      total += q;
    }
  }
  sum = total;
}

template <bool Wide, class Q>
void quantise(const float* x, int64_t runs, int run, void* out, float* scale, int32_t* sum) {
  Q* quants = static_cast<Q*>(out);
  int8_t* low = static_cast<int8_t*>(out) + runs * run;
  for (int64_t r = 0; r < runs; ++r) {
    const int64_t at = r * run;
    if (run == 32) {
      quantise_run<Wide, 32>(x + at, quants + at, low + at, scale[r], sum[r]);
    } else {
      quantise_run<Wide, 16>(x + at, quants + at, low + at, scale[r], sum[r]);
    }
  }
}

#define TRITONODE_HEIGHTS(name, ...) \
  {name<__VA_ARGS__ 12>, name<__VA_ARGS__ 8>, name<__VA_ARGS__ 4>, name<__VA_ARGS__ 2>, name<__VA_ARGS__ 1>}
#define TRITONODE_COMMA ,
#define TRITONODE_RUNS(name, ...)                                                \
  {TRITONODE_HEIGHTS(name, __VA_ARGS__ TRITONODE_COMMA 16 TRITONODE_COMMA), \
   TRITONODE_HEIGHTS(name, __VA_ARGS__ TRITONODE_COMMA 32 TRITONODE_COMMA)}
const Kernels kTable = {
    {TRITONODE_HEIGHTS(multiply_floats, float TRITONODE_COMMA), TRITONODE_HEIGHTS(multiply_floats, float16 TRITONODE_COMMA),
     TRITONODE_HEIGHTS(multiply_floats, bfloat16 TRITONODE_COMMA)},
    TRITONODE_HEIGHTS(multiply_pairs, Vec TRITONODE_COMMA),
    {TRITONODE_RUNS(multiply_quant_pairs, Vec TRITONODE_COMMA 8), TRITONODE_RUNS(multiply_quant_pairs, Vec TRITONODE_COMMA 4)},
    {TRITONODE_RUNS(multiply_quants, 8 TRITONODE_COMMA false), TRITONODE_RUNS(multiply_quants, 8 TRITONODE_COMMA true)},
    {TRITONODE_RUNS(multiply_quants, 4 TRITONODE_COMMA false), TRITONODE_RUNS(multiply_quants, 4 TRITONODE_COMMA true)},
    {widen<float>, widen<float16>, widen<bfloat16>},
    sum_runs,
    {{quantise<false, int8_t>, quantise<true, int8_t>},
     {quantise<false, int16_t>, quantise<true, int16_t>}},
    Vec::kPairs,
    Vec::kWords,
    Vec::kFirstFloatHeight,
    Vec::kFirstHeight,
    Vec::kFirstWideHeight,
    Vec::kByteZero,
};
#undef TRITONODE_RUNS
#undef TRITONODE_HEIGHTS
#undef TRITONODE_COMMA
