// Memory that is kept from call to call.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace tritonode {

/// 64-byte aligned memory that only grows.
class Memory {
 public:
  /// At least so many bytes; what was there is lost if more are needed than before. std::bad_alloc.
  char* reserve(size_t bytes) {
    if (bytes > size_) {
      clear();
      const size_t rounded = (bytes + 4095) / 4096 * 4096;
      data_.reset(static_cast<char*>(std::aligned_alloc(64, rounded)));
      if (!data_) throw std::bad_alloc();
      size_ = rounded;
    }
    return data_.get();
  }
  /// Frees it if there are more than so many bytes.
  void trim(size_t kept) {
    if (size_ > kept) clear();
  }

 private:
  struct Free {
    void operator()(char* data) const { std::free(data); }
  };
  void clear() {
    data_.reset();
    size_ = 0;
  }
  std::unique_ptr<char, Free> data_;
  size_t size_ = 0;
};

}  // namespace tritonode
