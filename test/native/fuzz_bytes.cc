// libFuzzer target: whatever a backend puts into a BYTES tensor, the elements lie inside it, in order and apart.
// `npm run fuzz:native` (needs clang with compiler-rt).
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "../../native/triton/bytes_tensor.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of exactly this size, so that AddressSanitizer sees a byte too many.
  const std::vector<uint8_t> tensor(data, data + size);
  const uint8_t* const end = tensor.data() + size;
  const uint8_t* last = tensor.data();
  size_t sum = 0;
  tritonode::ForEachElement(tensor.data(), size, [&](const uint8_t* bytes, size_t length) {
    if (bytes < last + 4 || length > static_cast<size_t>(end - bytes)) std::abort();
    for (size_t i = 0; i < length; ++i) sum += bytes[i];
    last = bytes + length;
  });
  return sum == 1 ? -1 : 0;
}
