// Expand from an interleaved B (interleaved.h). Included by kernels.inl; the order of each sum is the same there.

constexpr int kPanelVectors = kInterleavedOutputs / Vec::N;
/// Ranks of one line: a line has the weights of kInterleavedOutputs outputs for a rank in float32, for two in 16 bits.
template <class W>
constexpr int kLineRanks = ranks_of_line(sizeof(W));

/// Elements of one panel of kInterleavedOutputs outputs.
template <class W>
inline int64_t panel_elements(int rank) {
  return lines_of_panel(sizeof(W), rank) * kLineRanks<W> * kInterleavedOutputs;
}

/// The weights of outputs v * N and following in a line: of its rank, or of its first and second rank.
template <class W>
inline void load_line(const W* line, int v, typename Vec::F (&out)[kLineRanks<W>]) {
  if constexpr (kLineRanks<W> == 1) {
    out[0] = Vec::load(line + v * Vec::N);
  } else {
    Vec::load_pairs(line + v * 2 * Vec::N, out[0], out[1]);
  }
}

// T rows times C panels, with all their sums in registers.
template <class W, class Y, int T, int C>
inline void expand_panels(const float* const* tmp, const W* b, int rank, int64_t outputs, void* const* y, int64_t o,
                          bool add) {
  using F = typename Vec::F;
  constexpr int kStep = kLineRanks<W>, kElements = kStep * kInterleavedOutputs;
  const int64_t panel = panel_elements<W>(rank);
  F acc[T][C * kPanelVectors];
  for (auto& row : acc)
    for (F& sum : row) sum = Vec::zero();
  const W* line = b + o / kInterleavedOutputs * panel;
  const auto add_ranks = [&](int j, int ranks) {
    for (int c = 0; c < C; ++c) {
      prefetch(line + c * panel, kAhead);
      for (int v = 0; v < kPanelVectors; ++v) {
        F w[kStep];
        load_line(line + c * panel, v, w);
        for (int k = 0; k < ranks; ++k)
          for (int t = 0; t < T; ++t)
            acc[t][c * kPanelVectors + v] = Vec::fma(w[k], Vec::set1(tmp[t][j + k]), acc[t][c * kPanelVectors + v]);
      }
    }
  };
  int j = 0;
  for (; j + kStep <= rank; j += kStep, line += kElements) add_ranks(j, kStep);
  if (j < rank) add_ranks(j, rank - j);
  for (int t = 0; t < T; ++t) {
    for (int c = 0; c < C * kPanelVectors; ++c) {
      const int64_t at = o + c * Vec::N;
      if (at < outputs)
        put(static_cast<Y*>(y[t]) + at, acc[t][c],
            static_cast<int>(outputs - at < Vec::N ? outputs - at : Vec::N), add);
    }
  }
}

template <class W, class Y, int T>
inline void expand_few(const float* const* tmp, const W* b, int rank, int64_t outputs, void* const* y, bool add) {
  // Eight sums in flight hide the latency of fma. One panel of four rows has more where vectors are short.
  constexpr int kFit = 8 / (T * kPanelVectors);
  constexpr int C = kFit < 1 ? 1 : kFit < 4 ? kFit : 4;
  int64_t o = 0;
  for (; o + C * kInterleavedOutputs <= outputs; o += C * kInterleavedOutputs)
    expand_panels<W, Y, T, C>(tmp, b, rank, outputs, y, o, add);
  for (; o < outputs; o += kInterleavedOutputs) expand_panels<W, Y, T, 1>(tmp, b, rank, outputs, y, o, add);
}

// What make_panel() makes, from an interleaved B.
template <class W>
inline void widen_panel(const W* b, int rank, int columns, float* to) {
  using F = typename Vec::F;
  constexpr int kStep = kLineRanks<W>, kWidth = Vec::kColumns * Vec::N;
  static_assert(kWidth % kInterleavedOutputs == 0, "whole panels");
  for (int c = 0; c < kWidth; c += kInterleavedOutputs) {
    const W* line = b + (c < columns ? c / kInterleavedOutputs * panel_elements<W>(rank) : 0);
    for (int j = 0; j < rank; j += kStep, line += kStep * kInterleavedOutputs) {
      for (int v = 0; v < kPanelVectors; ++v) {
        F w[kStep];
        load_line(line, v, w);
        for (int k = 0; k < kStep && j + k < rank; ++k) Vec::store(to + (j + k) * kWidth + c + v * Vec::N, w[k]);
      }
    }
  }
}

template <class W, class Y>
void expand_interleaved(const float* const* tmp, int tokens, const void* weights, int rank, int64_t outputs,
                        void* const* y, bool add, float* panel) {
  const W* b = static_cast<const W*>(weights);
  static_assert(kMatvecRows == 4, "the cases below");
  switch (tokens) {
    case 0: return;
    case 1: return expand_few<W, Y, 1>(tmp, b, rank, outputs, y, add);
    case 2: return expand_few<W, Y, 2>(tmp, b, rank, outputs, y, add);
    case 3: return expand_few<W, Y, 3>(tmp, b, rank, outputs, y, add);
    case 4: return expand_few<W, Y, 4>(tmp, b, rank, outputs, y, add);
    default: break;
  }
  constexpr int width = Vec::kColumns * Vec::N;
  for (int64_t o = 0; o < outputs; o += width) {
    const int columns = static_cast<int>(outputs - o < width ? outputs - o : width);
    widen_panel(b + o / kInterleavedOutputs * panel_elements<W>(rank), rank, columns, panel);
    expand_tiles<Y>(tmp, tokens, panel, rank, columns, y, o, add);
  }
}
