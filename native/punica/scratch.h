// Memory of a thread that is kept from call to call.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

namespace tritonode::punica {

/// 64-byte aligned floats that only grow.
class Floats {
 public:
  ~Floats() { std::free(data_); }
  float* reserve(size_t count) {
    if (count > size_) {
      std::free(data_);
      size_ = 0;
      const size_t bytes = (count * sizeof(float) + 63) / 64 * 64;
      data_ = static_cast<float*>(std::aligned_alloc(64, bytes));
      if (!data_) throw std::bad_alloc();
      size_ = bytes / sizeof(float);
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  size_t size_ = 0;
};

struct Scratch {
  std::vector<const void*> x, a;
  std::vector<const float*> tmp_rows;
  std::vector<void*> y;
  Floats tmp, panel;
};

/// This thread's.
Scratch& scratch();

}  // namespace tritonode::punica
