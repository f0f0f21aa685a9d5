// Registers lora_ and the norms with torch's dispatcher (namespace tritonode_punica), through torch's stable C API.
//
// Calling a layer through ctypes takes longer than a decode step's arithmetic, and torch.compile can't trace the call.
// An operator is one node of a compiled graph, and one C++ call from eager code.
#include <atomic>
#include <bit>
#include <stdexcept>
#include <string>

#include "layers.h"
#include "torch_tensor.h"

namespace tritonode::punica {

tritonode_punica_torch torch;

namespace {

std::atomic<bool> registered{false};

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
  Operator kernel;
} kOperators[] = {
    {"lora_", "lora_(Tensor(a!) y, Tensor x, Tensor weight, int rows, float scale) -> ()", &lora},
    {"rms_norm_", "rms_norm_(Tensor(a!) out, Tensor x, Tensor weight, float epsilon) -> ()", &rms_norm},
    {"fused_add_rms_norm_",
     "fused_add_rms_norm_(Tensor(a!) x, Tensor(b!) residual, Tensor weight, float epsilon) -> ()",
     &fused_add_rms_norm},
    {"silu_and_mul_", "silu_and_mul_(Tensor(a!) out, Tensor x) -> ()", &silu_and_mul},
    {"attention_",
     "attention_(Tensor(a!) out, Tensor query, Tensor key, Tensor value, Tensor(b!) cache, Tensor slots, "
     "Tensor starts, Tensor lengths, Tensor blocks, bool store, int window, bool causal, float scale, float softcap) "
     "-> ()",
     &attention},
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
