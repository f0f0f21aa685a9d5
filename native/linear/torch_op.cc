// linear_ as an operator of torch's dispatcher, namespace tritonode_linear; see ../punica/torch_op.cc.
#include <atomic>

#include "../punica/torch_tensor.h"
#include "packed.h"

namespace tritonode::linear {
namespace {

using punica::Matrix;
using punica::Tensor;
using punica::Vector;

std::atomic<bool> registered{false};

std::string size_of(const Matrix& m) { return std::to_string(m.rows) + " x " + std::to_string(m.columns); }

void linear(uint64_t* stack, uint64_t, uint64_t) {
  const Tensor out(stack[0]), x(stack[1]), weight(stack[2]), bias(stack[3]);
  const Matrix in = punica::matrix(x, "x"), to = punica::matrix(out, "out");
  const Vector packed = punica::vector(weight), added = punica::vector(bias);
  Head head;
  // Of the types that a packed buffer can have, uint8 alone has one byte an element; the size is in the head as well.
  if (packed.size < 0 || !read_head(packed.data, packed.size, head))
    throw std::runtime_error("tritonode_linear::linear_: weight is not a packed buffer of this version");
  if (in.columns != head.inputs || to.columns != head.outputs || in.rows != to.rows)
    throw std::runtime_error("tritonode_linear::linear_: x of " + size_of(in) + " and out of " + size_of(to) +
                             " do not fit weights of " + std::to_string(head.outputs) + " x " +
                             std::to_string(head.inputs));
  if (added.size != 0 && (added.size != head.outputs || added.dtype < 0))
    throw std::runtime_error("tritonode_linear::linear_: bias must be a vector of " + std::to_string(head.outputs) +
                             " floats, or empty");
  const int32_t status = tritonode_linear(&in.view, in.rows, packed.data, packed.size,
                                          added.size == 0 ? nullptr : added.data, added.dtype, &to.view);
  if (status != TRITONODE_PUNICA_OK)
    throw std::runtime_error("tritonode_linear::linear_: status " + std::to_string(status));
}

}  // namespace
}  // namespace tritonode::linear

extern "C" int32_t tritonode_linear_register_torch() {
  using namespace tritonode::linear;
  const tritonode_punica_torch& torch = tritonode::punica::torch;
  if (!torch.library_def) return TRITONODE_PUNICA_UNSUPPORTED;
  if (registered.exchange(true)) return TRITONODE_PUNICA_OK;
  void* definitions = nullptr;
  void* kernels = nullptr;  // both live as long as the process
  const bool ok =
      torch.library_init_fragment("tritonode_linear", __FILE__, __LINE__, &definitions) == 0 &&
      torch.library_init_impl("tritonode_linear", "CPU", __FILE__, __LINE__, &kernels) == 0 &&
      torch.library_def(definitions, "linear_(Tensor(a!) out, Tensor x, Tensor weight, Tensor bias) -> ()") == 0 &&
      torch.library_impl(kernels, "linear_", &linear) == 0;
  registered.store(ok);
  return ok ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_UNSUPPORTED;
}
