// Memory of a thread that is kept from call to call.
#pragma once

#include <cstddef>
#include <vector>

#include "../common/memory.h"

namespace tritonode::punica {

/// 64-byte aligned floats that only grow.
class Floats {
 public:
  float* reserve(size_t count) { return reinterpret_cast<float*>(memory_.reserve(count * sizeof(float))); }

 private:
  Memory memory_;
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
