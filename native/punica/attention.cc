// Divides attention into pieces for threads. A piece is a block of tokens of one sequence for one KV head. If there are
// fewer pieces than threads can use (one long conversation), a piece is divided further into partitions of its keys.
// Neither changes any sum's order (see attention.inl).
#include <algorithm>
#include <cstring>
#include <vector>

#include "schedule.h"

namespace tritonode::punica {
namespace {

using Attention = tritonode_punica_attention;

/// Rows of one KV head: `tokens` tokens of a request, times the heads that share it.
struct Piece {
  int32_t request, kv_head;
  int64_t token;  // row of query and output
  int32_t tokens;
};

/// The result of a partition's softmax: rows times (out, maximum, sum).
struct Partial {
  float *out, *maximum, *sum;
};

class Attending {
 public:
  explicit Attending(const Attention& call)
      : call_(call), kernels_(active_kernels()), group_(call.heads / call.kv_heads), size_(element_size(call.dtype)) {}

  bool run() {
    cut();
    if (pieces_.empty()) return true;
    const int64_t parts = partitions_of_longest();
    if (parts > 1 && static_cast<int64_t>(pieces_.size()) < 2 * thread_count()) return in_partitions(parts);
    const auto body = [](int64_t i, void* self) { static_cast<Attending*>(self)->whole(i); };
    return share(static_cast<int64_t>(pieces_.size()), cost_, body, this);
  }

 private:
  // About 16 multiply-adds a nanosecond; each key costs two of them for each element of a head.
  static constexpr double kMacsPerNs = 16.0;

  void cut() {
    const int32_t tokens = std::max(1, kAttentionRows / group_);
    for (int32_t q = 0; q < call_.requests; ++q) {
      const int64_t begin = call_.query_starts[q], end = call_.query_starts[q + 1];
      for (int64_t token = begin; token < end; token += tokens) {
        const auto count = static_cast<int32_t>(std::min<int64_t>(tokens, end - token));
        for (int32_t head = 0; head < call_.kv_heads; ++head) pieces_.push_back({q, head, token, count});
        const int64_t keys = last_key(pieces_.back(), count - 1) - first_key(pieces_.back(), 0);
        cost_ += static_cast<double>(keys * count * call_.heads * call_.head_size) * 2.0 / kMacsPerNs;
      }
    }
  }

  // A token's position in its sequence: the step's tokens are the last ones of a request.
  int64_t position(const Piece& piece, int32_t token) const {
    return call_.sequence_lengths[piece.request] - (call_.query_starts[piece.request + 1] - piece.token - token);
  }
  int64_t last_key(const Piece& piece, int32_t token) const {
    return call_.causal ? position(piece, token) + 1 : call_.sequence_lengths[piece.request];
  }
  int64_t first_key(const Piece& piece, int32_t token) const {
    return call_.window > 0 ? std::max<int64_t>(0, position(piece, token) + 1 - call_.window) : 0;
  }
  static int64_t partition_of(int64_t key) { return key / kPartitionKeys; }
  int64_t partitions_of_longest() const {
    int64_t most = 0;
    for (const Piece& piece : pieces_)
      most = std::max(most, partition_of(last_key(piece, piece.tokens - 1) - 1) - partition_of(first_key(piece, 0)) + 1);
    return most;
  }
  size_t state_size() const { return static_cast<size_t>(kAttentionRows) * (call_.head_size + 2); }
  Partial partial(float* at) const {
    float* maximum = at + static_cast<size_t>(kAttentionRows) * call_.head_size;
    return {at, maximum, maximum + kAttentionRows};
  }

  void whole(int64_t index) {
    const Piece& piece = pieces_[index];
    const size_t state = state_size();
    float* mine = wide_scratch(2 * state + scratch_size());
    const Partial total = partial(mine), part = partial(mine + state);
    const int64_t begin = partition_of(first_key(piece, 0));
    const int64_t end = partition_of(last_key(piece, piece.tokens - 1) - 1) + 1;
    add_partition(piece, begin, total, mine + 2 * state);
    for (int64_t i = begin + 1; i < end; ++i) {
      add_partition(piece, i, part, mine + 2 * state);
      merge(piece, total, part);
    }
    finish(piece, total);
  }

  bool in_partitions(int64_t parts) {
    const size_t state = state_size();
    partials_.resize(pieces_.size() * static_cast<size_t>(parts) * state);
    parts_ = parts;
    const auto body = [](int64_t i, void* context) {
      Attending& self = *static_cast<Attending*>(context);
      const Piece& piece = self.pieces_[i / self.parts_];
      const int64_t index = partition_of(self.first_key(piece, 0)) + i % self.parts_;
      if (index * kPartitionKeys >= self.last_key(piece, piece.tokens - 1)) return;
      self.add_partition(piece, index, self.partial(self.partials_.data() + i * self.state_size()),
                         wide_scratch(self.scratch_size()));
    };
    if (!share(static_cast<int64_t>(pieces_.size()) * parts, cost_, body, this)) return false;
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const Piece& piece = pieces_[i];
      const int64_t begin = partition_of(first_key(piece, 0));
      const int64_t end = partition_of(last_key(piece, piece.tokens - 1) - 1) + 1;
      float* states = partials_.data() + i * static_cast<size_t>(parts) * state;
      for (int64_t k = 1; k < end - begin; ++k) merge(piece, partial(states), partial(states + k * state));
      finish(piece, partial(states));
    }
    return true;
  }

  // queries [kAttentionRows][head_size], scores [kAttentionRows][kTileKeys]
  size_t scratch_size() const { return static_cast<size_t>(kAttentionRows) * (call_.head_size + kTileKeys); }

  void add_partition(const Piece& piece, int64_t partition, const Partial& into, float* scratch) const {
    const int64_t n = call_.head_size;
    const int rows = piece.tokens * group_;
    float* query = scratch;
    float* scores = scratch + static_cast<size_t>(kAttentionRows) * n;
    int64_t from[kAttentionRows], to[kAttentionRows];
    for (int r = 0; r < rows; ++r) {
      const int32_t token = r / group_, head = piece.kv_head * group_ + r % group_;
      const char* row = static_cast<const char*>(call_.query) +
                        ((piece.token + token) * call_.query_stride + head * n) * size_;
      kernels_.widen_row[call_.dtype](row, call_.scale, query + r * n, n);
      from[r] = first_key(piece, token);
      to[r] = last_key(piece, token);
    }
    std::fill_n(into.out, rows * n, 0.0f);
    std::fill_n(into.maximum, rows, kUnseen);
    std::fill_n(into.sum, rows, 0.0f);
    const AttentionRows all{rows, n, query, from, to, call_.softcap, into.maximum, into.sum, into.out};
    const int64_t first = std::max(partition * kPartitionKeys, from[0] / kTileKeys * kTileKeys);
    const int64_t last = std::min((partition + 1) * kPartitionKeys, to[rows - 1]);
    for (int64_t key = first; key < last; key += kTileKeys) {
      const void *keys[kTileKeys / kPageKeys], *values[kTileKeys / kPageKeys];
      pages(piece, key, last, keys, values);
      kernels_.attend[call_.dtype](all, keys, values, key, scores);
    }
  }

  void pages(const Piece& piece, int64_t key, int64_t last, const void** keys, const void** values) const {
    const int32_t* table = call_.block_table + piece.request * call_.block_table_stride;
    for (int64_t i = 0; i < kTileKeys / kPageKeys; ++i) {
      // For pages after the last key, scores are computed but not used, so the tile's first page stands in for them.
      const int64_t at = key + i * kPageKeys < last ? key + i * kPageKeys : key;
      const char* block = static_cast<const char*>(call_.cache) +
                          (table[at / call_.block_size] * call_.block_stride + piece.kv_head * call_.head_stride) * size_;
      const int64_t inside = at % call_.block_size * call_.head_size;
      keys[i] = block + inside * size_;
      values[i] = block + (inside + call_.block_size * call_.head_size) * size_;
    }
  }

  void merge(const Piece& piece, const Partial& total, const Partial& part) const {
    const int64_t n = call_.head_size;
    for (int r = 0; r < piece.tokens * group_; ++r)
      kernels_.merge_row(total.out + r * n, total.maximum[r], total.sum[r], part.out + r * n, part.maximum[r],
                         part.sum[r], n);
  }

  void finish(const Piece& piece, const Partial& total) const {
    const int64_t n = call_.head_size;
    for (int r = 0; r < piece.tokens * group_; ++r) {
      const int32_t token = r / group_, head = piece.kv_head * group_ + r % group_;
      char* row = static_cast<char*>(call_.output) + ((piece.token + token) * call_.output_stride + head * n) * size_;
      kernels_.finish_row[call_.dtype](total.out + r * n, total.sum[r], row, n);
    }
  }

  const Attention& call_;
  const Kernels& kernels_;
  const int32_t group_;
  const int64_t size_;
  std::vector<Piece> pieces_;
  std::vector<float> partials_;
  int64_t parts_ = 0;
  double cost_ = 0.0;
};

template <class T>
void store_key(const void* from, void* to, int64_t n) {
  for (int64_t d = 0; d < n; ++d) static_cast<T*>(to)[d * kPageKeys] = static_cast<const T*>(from)[d];
}

bool valid(const Attention& call) {
  if (!call.query || !call.output || !call.cache || !call.query_starts || !call.sequence_lengths || !call.block_table ||
      call.requests < 0 || call.kv_heads < 1 || call.heads < call.kv_heads || call.heads % call.kv_heads != 0 ||
      call.heads / call.kv_heads > kAttentionRows || call.head_size < 16 || call.head_size % 16 != 0 ||
      call.block_size < kPageKeys || call.block_size % kPageKeys != 0 || !valid_dtype(call.dtype))
    return false;
  for (int32_t q = 0; q < call.requests; ++q) {
    const int64_t tokens = call.query_starts[q + 1] - call.query_starts[q], keys = call.sequence_lengths[q];
    if (tokens < 0 || keys < tokens) return false;
    const int64_t blocks = (keys + call.block_size - 1) / call.block_size;
    if (blocks > call.block_table_stride) return false;
    const int32_t* table = call.block_table + q * call.block_table_stride;
    for (int64_t i = 0; tokens > 0 && i < blocks; ++i)
      if (table[i] < 0 || table[i] >= call.blocks) return false;
  }
  return true;
}

}  // namespace
}  // namespace tritonode::punica

using namespace tritonode::punica;

extern "C" {

int32_t tritonode_punica_attend(const tritonode_punica_attention* call) {
  if (!call || !valid(*call)) return TRITONODE_PUNICA_INVALID;
  try {
    return Attending(*call).run() ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_NO_MEMORY;
  } catch (...) {
    return TRITONODE_PUNICA_NO_MEMORY;  // nothing else throws
  }
}

int32_t tritonode_punica_store_kv(const tritonode_punica_attention* call, const tritonode_punica_matrix* key,
                                  const tritonode_punica_matrix* value, const int64_t* slots, int64_t tokens) {
  if (!call || !call->cache || !key || !value || !slots || tokens < 0 || call->head_size < 16 ||
      call->head_size % 16 != 0 || call->block_size < kPageKeys || call->block_size % kPageKeys != 0 ||
      key->dtype != call->dtype || value->dtype != call->dtype || !valid_dtype(call->dtype))
    return TRITONODE_PUNICA_INVALID;
  for (int64_t t = 0; t < tokens; ++t)
    if (slots[t] >= call->blocks * call->block_size) return TRITONODE_PUNICA_INVALID;
  struct Tokens {
    const tritonode_punica_attention& call;
    const tritonode_punica_matrix &key, &value;
    const int64_t* slots;
    int64_t tokens;
  } all{*call, *key, *value, slots, tokens};
  constexpr int64_t kPiece = 16;
  const auto body = [](int64_t index, void* context) {
    const Tokens& of = *static_cast<const Tokens*>(context);
    const int64_t size = element_size(of.call.dtype), n = of.call.head_size;
    const int64_t end = std::min(of.tokens, (index + 1) * kPiece);
    for (int64_t t = index * kPiece; t < end; ++t) {
      if (of.slots[t] < 0) continue;  // padding
      const int64_t block = of.slots[t] / of.call.block_size, at = of.slots[t] % of.call.block_size;
      for (int32_t head = 0; head < of.call.kv_heads; ++head) {
        char* to = static_cast<char*>(of.call.cache) +
                   (block * of.call.block_stride + head * of.call.head_stride) * size;
        const char* k = static_cast<const char*>(of.key.data) + (t * of.key.row_stride + head * n) * size;
        const char* v = static_cast<const char*>(of.value.data) + (t * of.value.row_stride + head * n) * size;
        char* page = to + (at / kPageKeys * kPageKeys * n + at % kPageKeys) * size;
        if (size == 2) {
          store_key<uint16_t>(k, page, n);
        } else {
          store_key<uint32_t>(k, page, n);
        }
        std::memcpy(to + (of.call.block_size + at) * n * size, v, static_cast<size_t>(n * size));
      }
    }
  };
  const double cost = static_cast<double>(tokens * call->kv_heads * call->head_size) * 1.5;
  return share((tokens + kPiece - 1) / kPiece, cost, body, &all) ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_NO_MEMORY;
}

}  // extern "C"
