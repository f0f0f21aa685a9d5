// A decoder's layers, one call of the C interfaces after the other.
#include "decoder.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "../common/memory.h"
#include "../linear/matmul.h"
#include "../linear/packed.h"
#include "../punica/layers.h"
#include "../punica/schedule.h"

namespace tritonode::decoder {
namespace {

using linear::Head;
using punica::element_size;
using punica::valid_dtype;
using Matrix = tritonode_punica_matrix;

// Memory for activations beyond this size is freed after the step: large prompts are rarer than decoding.
constexpr size_t kKeptBytes = size_t{8} << 20;

struct Linear {
  tritonode_decoder_linear call;
  std::vector<tritonode_decoder_part> parts;
  std::vector<int64_t> outputs;  // of each part
};

struct Layer {
  tritonode_decoder_layer call;
  Linear qkv, attention_output, gate_up, down;
};

}  // namespace
}  // namespace tritonode::decoder

struct tritonode_decoder {
  tritonode_decoder_description call;
  std::vector<tritonode::decoder::Layer> layers;
  /// For the activations of one step.
  tritonode::Memory memory;
};

namespace tritonode::decoder {
namespace {

/// Copies a linear layer's description. Returns why it is refused, or null.
const char* copy(const tritonode_decoder_linear& from, int64_t inputs, int64_t outputs, Linear& to) {
  if (!from.parts || from.part_count < 1) return "a linear layer has no weights";
  if (from.bias && !valid_dtype(from.bias_dtype)) return "a bias is of an unknown type";
  if (from.lora && from.lora_layer < 0) return "a LoRA layer has no handle";
  to.call = from;
  to.parts.assign(from.parts, from.parts + from.part_count);
  to.call.parts = nullptr;
  int64_t all = 0;
  for (const tritonode_decoder_part& part : to.parts) {
    Head head;
    if (!linear::read_head(part.packed, part.bytes, head)) return "a weight is not a packed buffer of this version";
    if (head.inputs != inputs) return "a weight has another number of inputs than its layer";
    for (int64_t k = 0; part.order && k < inputs; ++k)
      if (part.order[k] < 0 || part.order[k] >= inputs) return "a weight is of inputs that its layer does not have";
    to.outputs.push_back(head.outputs);
    all += head.outputs;
  }
  return all == outputs ? nullptr : "a layer's weights have another number of outputs than it needs";
}

const char* copy(const tritonode_decoder_description& of, const tritonode_decoder_layer& from, Layer& to) {
  const int64_t queries = int64_t{of.heads} * of.head_size, keys = int64_t{of.kv_heads} * of.head_size;
  to.call = from;
  if (!from.input_norm.weight || !from.mlp_norm.weight) return "a norm has no weight";
  if (!from.cos_sin.data || from.cos_sin.dtype != of.dtype || from.cos_sin.row_stride < of.head_size ||
      from.position_count < 1)
    return "the rotary embedding is of another type or size than the decoder";
  if (!from.cache || from.blocks < 1 || from.block_size < 1 || from.window < 0) return "a layer has no KV cache";
  const struct {
    const tritonode_decoder_linear& from;
    int64_t inputs, outputs;
    Linear& to;
  } all[] = {{from.qkv, of.hidden, queries + 2 * keys, to.qkv},
             {from.attention_output, queries, of.hidden, to.attention_output},
             {from.gate_up, of.hidden, 2 * of.intermediate, to.gate_up},
             {from.down, of.intermediate, of.hidden, to.down}};
  for (const auto& each : all)
    if (const char* reason = copy(each.from, each.inputs, each.outputs, each.to)) return reason;
  return nullptr;
}

const char* build(const tritonode_decoder_description& from, tritonode_decoder& to) {
  if (!from.layers || from.layer_count < 1 || !valid_dtype(from.dtype) || from.hidden < 1 || from.intermediate < 1 ||
      from.kv_heads < 1 || from.heads < from.kv_heads || from.heads % from.kv_heads != 0 || from.head_size < 2 ||
      from.head_size % 2 != 0 || !from.norm.weight)
    return "the decoder's sizes are invalid";
  to.call = from;
  to.call.layers = nullptr;
  to.layers.resize(static_cast<size_t>(from.layer_count));
  for (int32_t i = 0; i < from.layer_count; ++i)
    if (const char* reason = copy(from, from.layers[i], to.layers[static_cast<size_t>(i)])) return reason;
  return nullptr;
}

class Run {
 public:
  Run(tritonode_decoder& decoder, const tritonode_decoder_step& step)
      : decoder_(decoder), of_(decoder.call), step_(step), rows_(step.rows), size_(element_size(of_.dtype)),
        queries_(int64_t{of_.heads} * of_.head_size), keys_(int64_t{of_.kv_heads} * of_.head_size) {}

  int32_t all() {
    const punica::TeamAwake awake;
    lay_out();
    const Matrix& in = step_.input;
    for (int64_t i = 0; i < rows_; ++i) {
      std::memcpy(at(residual_, i), static_cast<const char*>(in.data) + i * in.row_stride * size_,
                  static_cast<size_t>(of_.hidden * size_));
    }
    bool first = true;
    for (const Layer& layer : decoder_.layers) {
      norm(first ? residual_ : hidden_, layer.call.input_norm, first ? nullptr : &residual_, hidden_);
      attention(layer);
      norm(hidden_, layer.call.mlp_norm, &residual_, hidden_);
      mlp(layer);
      if (status_ != TRITONODE_PUNICA_OK) return status_;
      first = false;
    }
    norm(hidden_, of_.norm, &residual_, hidden_);
    for (int64_t i = 0; i < rows_; ++i) {
      std::memcpy(static_cast<char*>(step_.output.data) + i * step_.output.row_stride * size_, at(hidden_, i),
                  static_cast<size_t>(of_.hidden * size_));
    }
    return status_;
  }

 private:
  void lay_out() {
    const int64_t gates = 2 * of_.intermediate, widest = std::max(queries_, of_.intermediate);
    struct {
      Matrix* to;
      int64_t columns;
    } const buffers[] = {{&residual_, of_.hidden}, {&hidden_, of_.hidden},  {&wide_, std::max(queries_ + 2 * keys_, gates)},
                         {&inner_, widest},        {&ordered_, std::max(of_.hidden, widest)}};
    size_t bytes = 0;
    for (const auto& buffer : buffers) bytes += bytes_of(buffer.columns);
    char* memory = decoder_.memory.reserve(bytes);
    for (const auto& buffer : buffers) {
      *buffer.to = {memory, buffer.columns, of_.dtype};
      memory += bytes_of(buffer.columns);
    }
  }
  size_t bytes_of(int64_t columns) const { return static_cast<size_t>((rows_ * columns * size_ + 63) / 64 * 64); }

  char* at(const Matrix& matrix, int64_t row, int64_t column = 0) const {
    return static_cast<char*>(matrix.data) + (row * matrix.row_stride + column) * size_;
  }
  Matrix columns(const Matrix& matrix, int64_t from) const { return {at(matrix, 0, from), matrix.row_stride, matrix.dtype}; }

  void check(int32_t status) {
    if (status_ == TRITONODE_PUNICA_OK) status_ = status;
  }

  void norm(const Matrix& x, const tritonode_decoder_norm& by, const Matrix* residual, const Matrix& out) {
    check(tritonode_punica_rms_norm(&x, rows_, of_.hidden, residual, by.weight, &out, by.epsilon));
  }

  // Few rows are computed row by row, many rows head by head, so that threads share the rows.
  void norm_heads(const Matrix& x, int32_t heads, const tritonode_decoder_norm& by) {
    if (!by.weight) return;
    const bool by_row = rows_ <= heads;
    for (int64_t i = 0; i < (by_row ? rows_ : heads); ++i) {
      const Matrix part = by_row ? Matrix{at(x, i), of_.head_size, of_.dtype} : columns(x, i * of_.head_size);
      check(tritonode_punica_rms_norm(&part, by_row ? heads : rows_, of_.head_size, nullptr, by.weight, &part,
                                      by.epsilon));
    }
  }

  // y = layer(x). `next` is the layer that is multiplied after this one, or null.
  void multiply(const Linear& layer, const Matrix& x, int64_t inputs, const Matrix& y, const Linear* next) {
    punica::Call adapters{};
    if (layer.call.lora) check(punica::token_call(*layer.call.lora, layer.call.lora_layer, x, rows_, y, adapters));
    if (status_ != TRITONODE_PUNICA_OK) return;
    std::optional<punica::Alongside> alongside;
    if (adapters.slices && punica::Alongside::suits(rows_)) alongside.emplace(adapters);
    punica::Ahead ahead;
    punica::Call later{};
    if (next && next->call.lora && punica::Alongside::suits(rows_)) {
      check(punica::token_call(*next->call.lora, next->call.lora_layer, x, rows_, y, later));
      if (later.slices) ahead = punica::Ahead(later);
    }
    int64_t column = 0;
    for (size_t i = 0; i < layer.parts.size(); ++i) {
      const tritonode_decoder_part& part = layer.parts[i];
      const Matrix to = columns(y, column);
      const char* bias = static_cast<const char*>(layer.call.bias);
      if (bias) bias += column * element_size(layer.call.bias_dtype);
      const Matrix& from = part.order ? in_order(x, part.order, inputs) : x;
      const linear::Company company{alongside ? &*alongside : nullptr, column, i == 0 ? &ahead : nullptr};
      check(linear::multiply(from, rows_, part.packed, part.bytes, bias, layer.call.bias_dtype, to, company));
      column += layer.outputs[i];
    }
    if (adapters.slices && !alongside) check(punica::run(adapters));
  }

  const Matrix& in_order(const Matrix& x, const int64_t* order, int64_t inputs) {
    for (int64_t i = 0; i < rows_; ++i) {
      for (int64_t k = 0; k < inputs; ++k)
        std::memcpy(at(ordered_, i, k), at(x, i, order[k]), static_cast<size_t>(size_));
    }
    return ordered_;
  }

  void attention(const Layer& layer) {
    const tritonode_decoder_layer& call = layer.call;
    multiply(layer.qkv, hidden_, of_.hidden, wide_, &layer.attention_output);
    const Matrix key = columns(wide_, queries_), value = columns(wide_, queries_ + keys_);
    norm_heads(wide_, of_.heads, call.query_norm);
    norm_heads(key, of_.kv_heads, call.key_norm);
    check(tritonode_punica_rope(&wide_, rows_, queries_, step_.positions, &call.cos_sin, call.position_count,
                                of_.head_size));
    check(tritonode_punica_rope(&key, rows_, keys_, step_.positions, &call.cos_sin, call.position_count, of_.head_size));
    tritonode_punica_attention attend{};
    attend.query = wide_.data;
    attend.output = inner_.data;
    attend.cache = call.cache;
    attend.query_starts = step_.query_starts;
    attend.sequence_lengths = step_.sequence_lengths;
    attend.block_table = step_.block_table;
    attend.query_stride = wide_.row_stride;
    attend.output_stride = inner_.row_stride;
    attend.block_stride = call.block_stride;
    attend.head_stride = call.head_stride;
    attend.block_table_stride = step_.block_table_stride;
    attend.blocks = call.blocks;
    attend.block_size = call.block_size;
    attend.requests = step_.requests;
    attend.heads = of_.heads;
    attend.kv_heads = of_.kv_heads;
    attend.head_size = of_.head_size;
    attend.dtype = of_.dtype;
    attend.window = call.window;
    attend.causal = step_.causal;
    attend.scale = call.scale;
    attend.softcap = call.softcap;
    check(tritonode_punica_store_kv(&attend, &key, &value, step_.slots, step_.slot_count));
    check(tritonode_punica_attend(&attend));
    // Padding rows belong to no request: attention does not write them, but later operators read them.
    for (int64_t i = step_.query_starts[step_.requests]; i < rows_; ++i)
      std::memset(at(inner_, i), 0, static_cast<size_t>(queries_ * size_));
    multiply(layer.attention_output, inner_, queries_, hidden_, &layer.gate_up);
  }

  void mlp(const Layer& layer) {
    multiply(layer.gate_up, hidden_, of_.hidden, wide_, &layer.down);
    check(tritonode_punica_silu_and_mul(&wide_, rows_, of_.intermediate, &inner_));
    const bool last = &layer == &decoder_.layers.back();
    multiply(layer.down, inner_, of_.intermediate, hidden_, last ? nullptr : &(&layer + 1)->qkv);
  }

  tritonode_decoder& decoder_;
  const tritonode_decoder_description& of_;
  const tritonode_decoder_step& step_;
  const int64_t rows_, size_, queries_, keys_;
  Matrix residual_{}, hidden_{}, wide_{}, inner_{}, ordered_{};
  int32_t status_ = TRITONODE_PUNICA_OK;
};

bool valid(const tritonode_decoder& decoder, const tritonode_decoder_step& step) {
  const tritonode_decoder_description& of = decoder.call;
  for (const Matrix* matrix : {&step.input, &step.output})
    if (!matrix->data || matrix->dtype != of.dtype || matrix->row_stride < of.hidden) return false;
  if (!step.positions || !step.slots || !step.query_starts || !step.sequence_lengths || !step.block_table ||
      step.rows < 0 || step.requests < 0 || step.slot_count < 0 || step.slot_count > step.rows)
    return false;
  return step.query_starts[0] == 0 && step.query_starts[step.requests] <= step.rows;
}

}  // namespace
}  // namespace tritonode::decoder

extern "C" {

int32_t tritonode_decoder_abi_version(void) { return TRITONODE_DECODER_ABI; }

tritonode_decoder* tritonode_decoder_new(const tritonode_decoder_description* description, const char** reason) {
  const char* refused = "there is no description";
  std::unique_ptr<tritonode_decoder> made;
  try {
    made = std::make_unique<tritonode_decoder>();
    if (description) refused = tritonode::decoder::build(*description, *made);
  } catch (...) {
    refused = "there is no memory for it";
  }
  if (reason) *reason = refused;
  return refused ? nullptr : made.release();
}

void tritonode_decoder_free(tritonode_decoder* decoder) { delete decoder; }

int32_t tritonode_decoder_run(tritonode_decoder* decoder, const tritonode_decoder_step* step) {
  if (!decoder || !step || !tritonode::decoder::valid(*decoder, *step)) return TRITONODE_PUNICA_INVALID;
  if (step->rows == 0) return TRITONODE_PUNICA_OK;
  int32_t status = TRITONODE_PUNICA_NO_MEMORY;
  try {
    status = tritonode::decoder::Run(*decoder, *step).all();
  } catch (...) {  // the activations' memory
  }
  decoder->memory.trim(tritonode::decoder::kKeptBytes);
  return status;
}

}  // extern "C"
