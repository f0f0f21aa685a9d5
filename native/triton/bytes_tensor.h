// The elements of a BYTES tensor: each a 4-byte little-endian length and that many bytes (Triton's serialization,
// docs/user_guide/model_configuration.md of triton-inference-server/server).
#pragma once

#include <cstddef>
#include <cstdint>

namespace tritonode {

// Calls `visit(bytes, size)` for each element of `size` bytes at `at`. A truncated tail (a backend's mistake) ends the row.
template <typename Visit>
void ForEachElement(const uint8_t* at, size_t size, Visit&& visit) {
  constexpr size_t kLength = 4;
  while (size >= kLength) {
    const uint32_t length = static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << 8 |
                            static_cast<uint32_t>(at[2]) << 16 | static_cast<uint32_t>(at[3]) << 24;
    at += kLength;
    size -= kLength;
    if (length > size) return;
    visit(at, static_cast<size_t>(length));
    at += length;
    size -= length;
  }
}

}  // namespace tritonode
