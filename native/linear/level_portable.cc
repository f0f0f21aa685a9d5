// Plain C++ (punica/vec_scalar.h), for every processor.
#include <bit>
#include <cstring>

#include "../punica/vec_scalar.h"
#include "kernels.h"

namespace tritonode::linear {
namespace {

using punica::to_float;

struct Vec : punica::ScalarVec<16> {
  static constexpr bool kPairs = false;
  static constexpr bool kWords = false;
  static constexpr bool kShortSums = false;
  static constexpr int kFirstFloatHeight = 3;
  static constexpr int kFirstHeight = 3;
  static constexpr int kFirstWideHeight = 3;
  static constexpr int kByteZero = 0;
  struct I {
    int32_t lane[N];
  };
  struct B {
    uint8_t byte[4 * N];
  };

  static inline F from_int(I v) {
    F out;
    for (int i = 0; i < N; ++i) out.lane[i] = static_cast<float>(v.lane[i]);
    return out;
  }
  static inline I set1_int(int32_t v) {
    I out;
    for (int32_t& lane : out.lane) lane = v;
    return out;
  }
  static inline I add_128(I a, I b) {
    for (int i = 0; i < N; ++i) a.lane[i] += 128 * b.lane[i];
    return a;
  }
  static inline B load_bytes(const uint8_t* p) {
    B out;
    std::memcpy(out.byte, p, sizeof(out.byte));
    return out;
  }
  static inline B low_nibbles(B v) {
    for (uint8_t& byte : v.byte) byte &= 15u;
    return v;
  }
  static inline B high_nibbles(B v) {
    for (uint8_t& byte : v.byte) byte = static_cast<uint8_t>(byte >> 4);
    return v;
  }
  static inline I dot4(I sum, B w, int32_t q) {
    int8_t x[4];
    std::memcpy(x, &q, sizeof(x));
    for (int i = 0; i < N; ++i)
      sum.lane[i] += w.byte[4 * i] * x[0] + w.byte[4 * i + 1] * x[1] + w.byte[4 * i + 2] * x[2] + w.byte[4 * i + 3] * x[3];
    return sum;
  }
  static inline I dot8(I sum, B w, int32_t q) {
    int8_t x[4];
    std::memcpy(x, &q, sizeof(x));
    for (int i = 0; i < N; ++i)
      for (int j = 0; j < 4; ++j) sum.lane[i] += (w.byte[4 * i + j] - 128) * x[j];
    return sum;
  }
  static inline F low_pairs(B v) { return pairs(v, 0); }
  static inline F high_pairs(B v) { return pairs(v, 2); }

 private:
  static inline F pairs(B v, int at) {
    F out;
    for (int i = 0; i < N; ++i) {
      bfloat16 value;
      std::memcpy(&value, v.byte + 4 * i + at, sizeof(value));
      out.lane[i] = to_float(value);
    }
    return out;
  }
};

#include "kernels.inl"
}  // namespace
const Kernels* portable_kernels() { return &kTable; }
}  // namespace tritonode::linear
