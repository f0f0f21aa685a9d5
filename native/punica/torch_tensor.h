// Tensor arguments of the operators, by way of torch's stable C API.
#pragma once

#include <bit>
#include <stdexcept>
#include <string>

#include "engine.h"

namespace tritonode::punica {

/// torch's functions, once tritonode_punica_register_torch() has had them.
extern tritonode_punica_torch torch;

inline void check(int32_t error, const char* what) {
  if (error != 0) throw std::runtime_error(std::string("tritonode_punica: torch refused ") + what);
}

/// A tensor argument: the operator owns its handle.
struct Tensor {
  explicit Tensor(uint64_t value) : handle(reinterpret_cast<void*>(static_cast<uintptr_t>(value))) {}
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() { (void)torch.delete_tensor(handle); }

  void* data() const {
    void* pointer = nullptr;
    check(torch.get_data_ptr(handle, &pointer), "data_ptr");
    return pointer;
  }
  void* handle;
};

struct Matrix {
  tritonode_punica_matrix view;
  int64_t rows, columns;
};

inline int32_t type_of(const Tensor& tensor) {
  int32_t dtype = 0;
  check(torch.get_dtype(tensor.handle, &dtype), "dtype");
  return dtype == torch.bfloat16  ? TRITONODE_PUNICA_BFLOAT16
         : dtype == torch.float16 ? TRITONODE_PUNICA_FLOAT16
         : dtype == torch.float32 ? TRITONODE_PUNICA_FLOAT32
                                  : -1;
}

inline Matrix matrix(const Tensor& tensor, const char* name) {
  int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
  check(torch.get_dim(tensor.handle, &dim), "dim");
  check(torch.get_sizes(tensor.handle, &sizes), "sizes");
  check(torch.get_strides(tensor.handle, &strides), "strides");
  const int32_t type = type_of(tensor);
  if (dim != 2 || type < 0 || (sizes[1] > 1 && strides[1] != 1)) {
    throw std::runtime_error(std::string("tritonode_punica: ") + name +
                             " must be a float32, float16 or bfloat16 matrix with contiguous rows");
  }
  return {{tensor.data(), strides[0], type}, sizes[0], sizes[1]};
}

struct Vector {
  const void* data;
  int64_t size;
  int32_t dtype;
};

inline Vector vector(const Tensor& tensor) {
  int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
  check(torch.get_dim(tensor.handle, &dim), "dim");
  check(torch.get_sizes(tensor.handle, &sizes), "sizes");
  check(torch.get_strides(tensor.handle, &strides), "strides");
  if (dim != 1 || (sizes[0] > 1 && strides[0] != 1)) return {nullptr, -1, -1};
  return {tensor.data(), sizes[0], type_of(tensor)};
}

using Operator = void (*)(uint64_t* stack, uint64_t, uint64_t);

// Of torch_attention.cc.
void attention(uint64_t* stack, uint64_t, uint64_t);

}  // namespace tritonode::punica
