// lora_ and the norms as operators of torch's dispatcher, namespace tritonode_punica, by way of torch's stable C API.
//
// A layer call from Python through ctypes costs more than a decode step's arithmetic; torch.compile can't see through
// it either. An operator is one node of a compiled graph and one C++ call from eager code.
#include <atomic>
#include <bit>
#include <stdexcept>
#include <string>

#include "layers.h"

namespace tritonode::punica {
namespace {

tritonode_punica_torch torch;
std::atomic<bool> registered{false};

void check(int32_t error, const char* what) {
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

int32_t type_of(const Tensor& tensor) {
  int32_t dtype = 0;
  check(torch.get_dtype(tensor.handle, &dtype), "dtype");
  return dtype == torch.bfloat16  ? TRITONODE_PUNICA_BFLOAT16
         : dtype == torch.float16 ? TRITONODE_PUNICA_FLOAT16
         : dtype == torch.float32 ? TRITONODE_PUNICA_FLOAT32
                                  : -1;
}

Matrix matrix(const Tensor& tensor, const char* name) {
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

Vector vector(const Tensor& tensor) {
  int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
  check(torch.get_dim(tensor.handle, &dim), "dim");
  check(torch.get_sizes(tensor.handle, &sizes), "sizes");
  check(torch.get_strides(tensor.handle, &strides), "strides");
  if (dim != 1 || (sizes[0] > 1 && strides[0] != 1)) return {nullptr, -1, -1};
  return {tensor.data(), sizes[0], type_of(tensor)};
}

void lora(uint64_t* stack, uint64_t, uint64_t) {
  const Tensor y(stack[0]), x(stack[1]), weight(stack[2]);
  const int32_t which = static_cast<int32_t>(static_cast<int64_t>(stack[3]));
  const float scale = static_cast<float>(std::bit_cast<double>(stack[4]));
  Layer* layer = find_layer(weight.data());
  if (!layer) throw std::runtime_error("tritonode_punica::lora_: the weights are of no registered layer");
  if (idle(*layer, which)) return;
  const Matrix in = matrix(x, "x"), out = matrix(y, "y");
  const int32_t status = apply_layer(*layer, which, in.view, in.rows, in.columns, out.view, out.rows, out.columns,
                                     scale);
  if (status != TRITONODE_PUNICA_OK) {
    throw std::runtime_error("tritonode_punica::lora_: status " + std::to_string(status) + " for x of " +
                             std::to_string(in.rows) + " x " + std::to_string(in.columns) + " and y of " +
                             std::to_string(out.rows) + " x " + std::to_string(out.columns));
  }
}

void norm(const Matrix& x, const Matrix* residual, const Tensor& weight, const Matrix& out, double epsilon) {
  const Vector scale = vector(weight);
  const int32_t status =
      scale.size != x.columns || scale.dtype != x.view.dtype || out.columns != x.columns || out.rows != x.rows ||
              (residual && (residual->columns != x.columns || residual->rows != x.rows))
          ? TRITONODE_PUNICA_INVALID
          : tritonode_punica_rms_norm(&x.view, x.rows, x.columns, residual ? &residual->view : nullptr, scale.data,
                                      &out.view, static_cast<float>(epsilon));
  if (status != TRITONODE_PUNICA_OK)
    throw std::runtime_error("tritonode_punica::rms_norm: status " + std::to_string(status));
}

void rms_norm(uint64_t* stack, uint64_t, uint64_t) {
  const Tensor out(stack[0]), x(stack[1]), weight(stack[2]);
  norm(matrix(x, "x"), nullptr, weight, matrix(out, "out"), std::bit_cast<double>(stack[3]));
}

void fused_add_rms_norm(uint64_t* stack, uint64_t, uint64_t) {
  const Tensor x(stack[0]), residual(stack[1]), weight(stack[2]);
  const Matrix in = matrix(x, "x"), sum = matrix(residual, "residual");
  norm(in, &sum, weight, in, std::bit_cast<double>(stack[3]));
}

void silu_and_mul(uint64_t* stack, uint64_t, uint64_t) {
  const Tensor out(stack[0]), x(stack[1]);
  const Matrix in = matrix(x, "x"), to = matrix(out, "out");
  const int32_t status = in.columns != 2 * to.columns || in.rows != to.rows
                             ? TRITONODE_PUNICA_INVALID
                             : tritonode_punica_silu_and_mul(&in.view, in.rows, to.columns, &to.view);
  if (status != TRITONODE_PUNICA_OK)
    throw std::runtime_error("tritonode_punica::silu_and_mul_: status " + std::to_string(status));
}

void rope(uint64_t* stack, uint64_t, uint64_t) {
  const Tensor query(stack[0]), key(stack[1]), positions(stack[2]), cos_sin(stack[3]);
  const int64_t head_size = static_cast<int64_t>(stack[4]);
  const Matrix q = matrix(query, "query"), k = matrix(key, "key"), angles = matrix(cos_sin, "cos_sin");
  const Vector at = vector(positions);
  int32_t dtype = 0;
  check(torch.get_dtype(positions.handle, &dtype), "dtype");
  const auto* rows = static_cast<const int64_t*>(at.data);
  int32_t status = dtype != torch.int64 || at.size != q.rows || at.size != k.rows || angles.columns != head_size
                       ? TRITONODE_PUNICA_INVALID
                       : TRITONODE_PUNICA_OK;
  for (const Matrix* m : {&q, &k}) {
    if (status == TRITONODE_PUNICA_OK)
      status = tritonode_punica_rope(&m->view, m->rows, m->columns, rows, &angles.view, angles.rows, head_size);
  }
  if (status != TRITONODE_PUNICA_OK)
    throw std::runtime_error("tritonode_punica::rope_: status " + std::to_string(status));
}

constexpr struct {
  const char* name;
  const char* schema;
  void (*kernel)(uint64_t*, uint64_t, uint64_t);
} kOperators[] = {
    {"lora_", "lora_(Tensor(a!) y, Tensor x, Tensor weight, int rows, float scale) -> ()", &lora},
    {"rms_norm_", "rms_norm_(Tensor(a!) out, Tensor x, Tensor weight, float epsilon) -> ()", &rms_norm},
    {"fused_add_rms_norm_",
     "fused_add_rms_norm_(Tensor(a!) x, Tensor(b!) residual, Tensor weight, float epsilon) -> ()",
     &fused_add_rms_norm},
    {"silu_and_mul_", "silu_and_mul_(Tensor(a!) out, Tensor x) -> ()", &silu_and_mul},
    {"rope_", "rope_(Tensor(a!) query, Tensor(b!) key, Tensor positions, Tensor cos_sin, int head_size) -> ()", &rope},
};

}  // namespace
}  // namespace tritonode::punica

extern "C" int32_t tritonode_punica_register_torch(const tritonode_punica_torch* functions) {
  using namespace tritonode::punica;
  if (!functions) return TRITONODE_PUNICA_INVALID;
  if (registered.exchange(true)) return TRITONODE_PUNICA_OK;
  torch = *functions;
  void* definitions = nullptr;
  void* kernels = nullptr;  // both live as long as the process
  bool ok = torch.library_init_fragment("tritonode_punica", __FILE__, __LINE__, &definitions) == 0 &&
            torch.library_init_impl("tritonode_punica", "CPU", __FILE__, __LINE__, &kernels) == 0;
  for (const auto& op : kOperators) {
    ok = ok && torch.library_def(definitions, op.schema) == 0 &&
         torch.library_impl(kernels, op.name, op.kernel) == 0;
  }
  if (!ok) {
    registered.store(false);
    return TRITONODE_PUNICA_UNSUPPORTED;
  }
  return TRITONODE_PUNICA_OK;
}
