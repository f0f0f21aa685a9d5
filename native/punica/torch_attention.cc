// Attention as an operator of torch: keys and values of the step go into the cache, then its queries look at all of it.
#include "torch_tensor.h"

namespace tritonode::punica {
namespace {

/// Rows of a contiguous tensor of any shape: [rows, the rest].
tritonode_punica_matrix rows_of(const Tensor& tensor, int64_t columns, int64_t rows, const char* name) {
  int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
  check(torch.get_dim(tensor.handle, &dim), "dim");
  check(torch.get_sizes(tensor.handle, &sizes), "sizes");
  check(torch.get_strides(tensor.handle, &strides), "strides");
  int64_t inside = 1;
  bool dense = dim >= 2;
  for (int64_t i = dim - 1; dense && i > 0; --i) {
    dense = sizes[i] == 1 || strides[i] == inside;
    inside *= sizes[i];
  }
  if (!dense || inside != columns || sizes[0] < rows)
    throw std::runtime_error(std::string("tritonode_punica::attention_: ") + name + " must be at least " +
                             std::to_string(rows) + " dense rows of " + std::to_string(columns));
  return {tensor.data(), strides[0], type_of(tensor)};
}

struct Integers {
  const void* data;
  int64_t rows, stride;
};

Integers integers(const Tensor& tensor, int64_t dimensions, int32_t dtype, const char* name) {
  int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
  int32_t is = 0;
  check(torch.get_dim(tensor.handle, &dim), "dim");
  check(torch.get_sizes(tensor.handle, &sizes), "sizes");
  check(torch.get_strides(tensor.handle, &strides), "strides");
  check(torch.get_dtype(tensor.handle, &is), "dtype");
  const int64_t last = dim - 1;
  if (dim != dimensions || is != dtype || (sizes[last] > 1 && strides[last] != 1))
    throw std::runtime_error(std::string("tritonode_punica::attention_: ") + name +
                             " must be integers with contiguous rows");
  return {tensor.data(), sizes[0], dim == 2 ? strides[0] : 1};
}

}  // namespace

void attention(uint64_t* stack, uint64_t, uint64_t) {
  const Tensor out(stack[0]), query(stack[1]), key(stack[2]), value(stack[3]), cache(stack[4]), slots(stack[5]),
      starts(stack[6]), lengths(stack[7]), blocks(stack[8]);
  int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
  check(torch.get_dim(cache.handle, &dim), "dim");
  check(torch.get_sizes(cache.handle, &sizes), "sizes");
  check(torch.get_strides(cache.handle, &strides), "strides");
  const bool store = stack[9] != 0;
  const auto block_size = static_cast<int32_t>(sizes[2]);
  if (dim != 4 || strides[3] != 1 || strides[2] != sizes[3] || sizes[3] % 2 != 0)
    throw std::runtime_error("tritonode_punica::attention_: the cache must be [blocks, heads, block_size, 2 * head_size]");
  int64_t query_dim = 0, *query_sizes = nullptr;
  check(torch.get_dim(query.handle, &query_dim), "dim");
  check(torch.get_sizes(query.handle, &query_sizes), "sizes");
  if (query_dim != 3) throw std::runtime_error("tritonode_punica::attention_: the query must be [tokens, heads, head_size]");
  const Integers first = integers(starts, 1, torch.int32, "starts"), keys = integers(lengths, 1, torch.int32, "lengths"),
                 table = integers(blocks, 2, torch.int32, "blocks"), places = integers(slots, 1, torch.int64, "slots");
  const int64_t requests = keys.rows;
  const auto* rows_at = static_cast<const int32_t*>(first.data);
  if (first.rows < requests + 1 || table.rows < requests || rows_at[0] != 0)
    throw std::runtime_error("tritonode_punica::attention_: starts, lengths and blocks are of different requests");
  const int64_t tokens = rows_at[requests], head_size = sizes[3] / 2, heads = query_sizes[1];
  const tritonode_punica_matrix in = rows_of(query, heads * head_size, tokens, "query"),
                                to = rows_of(out, heads * head_size, tokens, "out");
  tritonode_punica_attention call{};
  call.query = in.data;
  call.output = to.data;
  call.cache = cache.data();
  call.query_starts = rows_at;
  call.sequence_lengths = static_cast<const int32_t*>(keys.data);
  call.block_table = static_cast<const int32_t*>(table.data);
  call.query_stride = in.row_stride;
  call.output_stride = to.row_stride;
  call.block_stride = strides[0];
  call.head_stride = strides[1];
  call.block_table_stride = table.stride;
  call.blocks = sizes[0];
  call.block_size = block_size;
  call.requests = static_cast<int32_t>(requests);
  call.heads = static_cast<int32_t>(heads);
  call.kv_heads = static_cast<int32_t>(sizes[1]);
  call.head_size = static_cast<int32_t>(head_size);
  call.dtype = type_of(cache);
  call.window = static_cast<int32_t>(static_cast<int64_t>(stack[10]));
  call.causal = stack[11] != 0 ? 1 : 0;
  call.scale = static_cast<float>(std::bit_cast<double>(stack[12]));
  call.softcap = static_cast<float>(std::bit_cast<double>(stack[13]));
  int32_t status = in.dtype == call.dtype && to.dtype == call.dtype ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_INVALID;
  if (status == TRITONODE_PUNICA_OK && store) {
    const int64_t kept = places.rows;
    const tritonode_punica_matrix k = rows_of(key, call.kv_heads * head_size, kept, "key"),
                                  v = rows_of(value, call.kv_heads * head_size, kept, "value");
    status = tritonode_punica_store_kv(&call, &k, &v, static_cast<const int64_t*>(places.data), kept);
  }
  if (status == TRITONODE_PUNICA_OK) status = tritonode_punica_attend(&call);
  if (status != TRITONODE_PUNICA_OK)
    throw std::runtime_error("tritonode_punica::attention_: status " + std::to_string(status));
}

}  // namespace tritonode::punica
