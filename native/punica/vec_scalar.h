// Vectors in plain C++, for the portable kernels: correct everywhere, and the compiler may vectorise them for the baseline
// of its target.
#pragma once

#include "scalar.h"

namespace tritonode::punica {

/// Lanes of float32, with what both families of kernels (here and in linear/) need of a `Vec`.
template <int Lanes>
struct ScalarVec {
  static constexpr int N = Lanes;
  struct F {
    float lane[N];
  };

  static inline F zero() { return F{}; }
  static inline F set1(float v) {
    F out;
    for (float& lane : out.lane) lane = v;
    return out;
  }
  // Two roundings, everywhere: the build turns contraction off, so that no path fuses what another does not.
  static inline F fma(F a, F b, F c) {
    for (int i = 0; i < N; ++i) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
  }
  static inline F add(F a, F b) {
    for (int i = 0; i < N; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static inline F mul(F a, F b) {
    for (int i = 0; i < N; ++i) a.lane[i] *= b.lane[i];
    return a;
  }
  template <class T>
  static inline F load_partial(const T* p, int n) {
    F out{};
    for (int i = 0; i < n; ++i) out.lane[i] = to_float(p[i]);
    return out;
  }
  template <class T>
  static inline F load(const T* p) {
    return load_partial(p, N);
  }
  template <class T>
  static inline void store_partial(T* p, F v, int n) {
    for (int i = 0; i < n; ++i) from_float(v.lane[i], p[i]);
  }
  template <class T>
  static inline void store(T* p, F v) {
    store_partial(p, v, N);
  }
};

}  // namespace tritonode::punica
