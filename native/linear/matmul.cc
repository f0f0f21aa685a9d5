// One product, divided into tiles of rows and blocks of outputs, which threads share.
//
// Rows of x are first laid out in tiles (kernels.h), once for all outputs; then threads take pieces of neighbouring blocks
// of outputs and go through all tiles with each, so that a piece's weights are read from memory once. Many rows are done
// in chunks whose tiles stay in the second cache. None of this changes the order of any sum (kernels.inl).
#include "matmul.h"

#include <algorithm>
#include <bit>
#include <new>
#include <vector>

#include "../common/memory.h"
#include "../punica/schedule.h"
#include "kernels.h"
#include "packed.h"

namespace tritonode::linear {
namespace {

using punica::element_size;
using punica::valid_dtype;

const Kernels& active_kernels() {
  const Kernels* found = nullptr;
  switch (tritonode_punica_get_level()) {
    case TRITONODE_PUNICA_AVX512_BF16:
#if defined(__x86_64__)
      if (__builtin_cpu_supports("avx512vnni")) {
        found = avx512_vnni_kernels();
        break;
      }
#endif
      [[fallthrough]];
    case TRITONODE_PUNICA_AVX512:
    case TRITONODE_PUNICA_AVX2: found = avx2_kernels(); break;
    case TRITONODE_PUNICA_NEON: found = neon_kernels(); break;
    default: break;
  }
  return found ? *found : *portable_kernels();
}

// The size of a chunk's tiles, which leaves space in the second-level cache for a block's weights.
constexpr int64_t kChunkBytes = 512 * 1024;
// The size of the weights that one piece of work reads. A piece that a thread takes begins where it has not read before, and
// there it waits for memory: with an eighth of this size, a step of one stream took 11% longer. Each thread gets a few of a
// product's pieces at least, so that one that is late leaves some to the others.
constexpr int64_t kPieceBytes = 384 * 1024;
constexpr int64_t kPiecesOfThread = 2;
// Approximate speeds of one core in bytes of weights and products per nanosecond, to decide if more threads are worth it.
constexpr double kBytesPerNs = 20.0, kProductsPerNs = 60.0;
// Less work than this is done by one thread. The team spins between the layers of a step, so a region costs 1 to 2 us.
constexpr double kAloneNs = 8'000.0;

Memory& tile_memory() {
  thread_local Memory instance;
  return instance;
}
Memory& row_memory() {
  thread_local Memory instance;
  return instance;
}

class Product {
 public:
  Product(const Head& head, const uint8_t* packed, const tritonode_punica_matrix& x, int64_t rows, const void* bias,
          int32_t bias_dtype, const tritonode_punica_matrix& y, const Company& company)
      : kernels_(active_kernels()), head_(head), layout_(head), packed_(packed), x_(x), rows_(rows), bias_(bias),
        bias_dtype_(bias_dtype), y_(y), company_(company) {
    const bool quants = quantised(head.kind);
    form_ = quants ? (head.kind == TRITONODE_LINEAR_INT8 && kernels_.has_words ? Form::kWords : Form::kQuants)
            : head.kind == TRITONODE_LINEAR_BFLOAT16 && x.dtype == TRITONODE_PUNICA_BFLOAT16 && kernels_.has_pairs
                ? Form::kPairs
                : Form::kFloats;
    const bool wide = head.activation_bits == 16;
    if (wide && x.dtype == TRITONODE_PUNICA_BFLOAT16 && kernels_.has_pairs)
      form_ = Form::kQuantPairs;
    wide_ = wide && form_ != Form::kQuantPairs ? 1 : 0;
    const bool two_parts = wide_ && form_ == Form::kQuants;
    first_height_ = two_parts ? kernels_.first_wide_height : quants ? kernels_.first_height : kernels_.first_float_height;
    element_bytes_ = form_ == Form::kQuants ? 1 + wide_ : form_ == Form::kFloats ? 4 : 2;
    row_bytes_ = layout_.padded * element_bytes_ + (quants ? layout_.runs * 12 : 0);
    const int which = head.run == 32 ? 1 : 0;
    multiply_ = form_ == Form::kQuantPairs          ? kernels_.quant_pairs[head.kind == TRITONODE_LINEAR_INT4 ? 1 : 0][which]
                : head.kind == TRITONODE_LINEAR_INT4 ? kernels_.int4[wide_][which]
                : head.kind == TRITONODE_LINEAR_INT8 ? kernels_.int8[wide_][which]
                : form_ == Form::kPairs              ? kernels_.pairs
                                                     : kernels_.floats[head.kind];
  }

  bool run() {
    const int64_t highest = kHeights[first_height_];
    const int64_t chunk = std::max<int64_t>(highest, kChunkBytes / row_bytes_ / highest * highest);
    for (int64_t begin = 0; begin < rows_; begin += chunk) {
      const int64_t end = std::min(rows_, begin + chunk);
      if (!chunk_of(begin, end, end == rows_ ? company_.lora : nullptr)) return false;
    }
    return true;
  }

 private:
  struct Part {
    int64_t first;  // row
    int height;     // index of kHeights
    int count;      // rows that exist
    int64_t at;     // bytes
  };

  // The last chunk's region computes the LoRA layer too, of all rows.
  bool chunk_of(int64_t begin, int64_t end, punica::Alongside* lora) {
    parts_.clear();
    int64_t at = 0;
    for (int64_t row = begin; row < end;) {
      int height = first_height_;
      while (height + 1 < kHeightCount && kHeights[height + 1] >= end - row) ++height;
      const int count = static_cast<int>(std::min<int64_t>(kHeights[height], end - row));
      parts_.push_back({row, height, count, at});
      at += round_up(kHeights[height] * row_bytes_, 64);
      row += count;
    }
    tiles_ = tile_memory().reserve(static_cast<size_t>(at));
    const auto lay_out = [](int64_t part, void* context) { static_cast<Product*>(context)->lay_out(part); };
    const double row_cost = static_cast<double>(layout_.padded) * 0.3;
    if (!punica::share(static_cast<int64_t>(parts_.size()), row_cost * static_cast<double>(end - begin), lay_out, this))
      return false;
    const double bytes = static_cast<double>(layout_.blocks * layout_.block_bytes);
    const double products = static_cast<double>((end - begin) * layout_.padded * layout_.blocks * kLanes) *
                            (wide_ || form_ == Form::kQuantPairs || form_ == Form::kWords ? 2 : 1);
    const double cost = bytes / kBytesPerNs + products / kProductsPerNs + (lora ? lora->cost() : 0.0);
    const int64_t at_least = lora && lora->wide() ? punica::kPanelColumns / kLanes : 1;
    const int64_t at_most = layout_.blocks / (kPiecesOfThread * punica::thread_count());
    blocks_of_piece_ = std::clamp(kPieceBytes / layout_.block_bytes, at_least, std::max(at_least, at_most));
    const int64_t pieces = (layout_.blocks + blocks_of_piece_ - 1) / blocks_of_piece_;
    struct Region {
      Product* product;
      punica::Alongside* lora;
      int64_t shrinks, pieces;
    } region{this, lora, lora ? lora->take_pieces() : 0, pieces};
    const auto piece = [](int64_t index, void* context) {
      const Region& of = *static_cast<const Region*>(context);
      if (index < of.shrinks) {
        of.lora->shrink(index);
      } else {
        const int64_t piece = index - of.shrinks;
        if (of.product->company_.ahead) of.product->company_.ahead->fetch(piece, of.pieces);
        of.product->multiply(piece, of.lora);
      }
    };
    return punica::share(region.shrinks + pieces, cost < kAloneNs ? 0.0 : 1e9, piece, &region);
  }

  void lay_out(int64_t index) {
    const Part& part = parts_[static_cast<size_t>(index)];
    const int64_t height = kHeights[part.height], padded = layout_.padded, runs = layout_.runs;
    char* tile = tiles_ + part.at;
    if (part.count < height) std::memset(tile, 0, static_cast<size_t>(height * row_bytes_));
    for (int t = 0; t < part.count; ++t) {
      const char* row = static_cast<const char*>(x_.data) + (part.first + t) * x_.row_stride * element_size(x_.dtype);
      if (form_ == Form::kPairs) {
        char* to = tile + t * 4;
        if (height == 1) {
          std::memcpy(to, row, static_cast<size_t>(head_.inputs * 2));
          std::memset(to + head_.inputs * 2, 0, static_cast<size_t>((padded - head_.inputs) * 2));
          continue;
        }
        int64_t k = 0;
        for (; k + 2 <= head_.inputs; k += 2) std::memcpy(to + k / 2 * height * 4, row + k * 2, 4);
        for (; k < padded; k += 2) {
          std::memset(to + k / 2 * height * 4, 0, 4);
          if (k < head_.inputs) std::memcpy(to + k / 2 * height * 4, row + k * 2, 2);
        }
        continue;
      }
      // Row scratch: floats, then quants, scales, sums.
      const int64_t bytes = padded * (4 + element_bytes_) + runs * 8 + 64;
      float* wide = reinterpret_cast<float*>(row_memory().reserve(static_cast<size_t>(bytes)));
      if (form_ == Form::kFloats && height == 1) wide = reinterpret_cast<float*>(tile);
      kernels_.widen[x_.dtype](row, head_.inputs, padded, wide);
      if (form_ == Form::kFloats) {
        if (height == 1) continue;
        float* to = reinterpret_cast<float*>(tile) + t;
        for (int64_t k = 0; k < padded; ++k) to[k * height] = wide[k];
        continue;
      }
      if (form_ == Form::kQuantPairs) {
        lay_out_quant_pairs(wide, tile, height, t);
        continue;
      }
      char* quants = reinterpret_cast<char*>(wide + padded);
      float* scales = reinterpret_cast<float*>(quants + padded * element_bytes_);
      int32_t* sums = reinterpret_cast<int32_t*>(scales + runs);
      kernels_.quantise[form_ == Form::kWords ? 1 : 0][wide_](wide, runs, head_.run, quants, scales, sums);
      const int64_t columns = height * element_bytes_;
      if (form_ == Form::kWords) {
        uint32_t* to = reinterpret_cast<uint32_t*>(tile) + t;
        for (int64_t k = 0; k < padded; k += 4, to += 2 * height) {
          uint16_t q[4];
          std::memcpy(q, quants + 2 * k, sizeof(q));
          to[0] = q[0] | static_cast<uint32_t>(q[2]) << 16;
          to[height] = q[1] | static_cast<uint32_t>(q[3]) << 16;
        }
      } else if (columns == 1) {
        std::memcpy(tile, quants, static_cast<size_t>(padded));
      } else {
        for (int64_t part = 0; part < element_bytes_; ++part, quants += padded) {
          int32_t* to = reinterpret_cast<int32_t*>(tile) + part * height + t;
          for (int64_t k = 0; k < padded; k += 4) std::memcpy(to + k / 4 * columns, quants + k, 4);
        }
      }
      float* scale = reinterpret_cast<float*>(tile + columns * padded) + t;
      float* sum = scale + runs * height;
      int32_t* offset = reinterpret_cast<int32_t*>(sum - t + runs * height) + t;
      const int32_t zero = head_.zero + (head_.kind == TRITONODE_LINEAR_INT8 ? kernels_.byte_zero : 0);
      for (int64_t r = 0; r < runs; ++r) {
        scale[r * height] = scales[r];
        sum[r * height] = scales[r] * static_cast<float>(sums[r]);
        offset[r * height] = -zero * sums[r];
      }
    }
  }

  /// `wide` is a row of bfloat16 as float32, with space for the runs' sums behind it.
  void lay_out_quant_pairs(float* wide, char* tile, int64_t height, int t) {
    uint32_t* to = reinterpret_cast<uint32_t*>(tile) + t;
    const auto high_half = [wide](int64_t k) { return std::bit_cast<uint32_t>(wide[k]) & 0xffff0000u; };
    for (int64_t k = 0; k < layout_.padded; k += 4, to += 2 * height) {
      to[0] = high_half(k) >> 16 | high_half(k + 2);
      to[height] = high_half(k + 1) >> 16 | high_half(k + 3);
    }
    float* sums = wide + layout_.padded;
    kernels_.sum_runs(wide, layout_.runs, head_.run, sums);
    // Where Tile::sum is, behind the scales, which this form has none of.
    float* sum = reinterpret_cast<float*>(tile + height * layout_.padded * element_bytes_) + layout_.runs * height + t;
    for (int64_t r = 0; r < layout_.runs; ++r) sum[r * height] = sums[r];
  }

  // A tile stays in the first cache for all blocks of a piece: it is larger than a block's weights, which come from the
  // second cache for all tiles but the first.
  void multiply(int64_t piece, punica::Alongside* lora) {
    const int64_t begin = piece * blocks_of_piece_, end = std::min(layout_.blocks, begin + blocks_of_piece_);
    const int64_t first_column = company_.column + begin * kLanes;
    const int64_t last_column = company_.column + std::min(end * kLanes, head_.outputs);
    if (lora) lora->fetch(first_column, last_column);
    for (const Part& part : parts_) {
      const int64_t height = kHeights[part.height];
      const char* tile = tiles_ + part.at;
      const float* constants = reinterpret_cast<const float*>(tile + height * layout_.padded * element_bytes_);
      const Tile x{tile, constants, constants + layout_.runs * height,
                   reinterpret_cast<const int32_t*>(constants + 2 * layout_.runs * height)};
      for (int64_t b = begin; b < end; ++b) multiply_block(part, x, b);
    }
    if (lora) lora->expand(first_column, last_column);
  }

  void multiply_block(const Part& part, const Tile& x, int64_t b) {
    const Block block{packed_ + TRITONODE_LINEAR_HEADER_BYTES + b * layout_.block_bytes,
                      packed_ + layout_.scales_at + b * layout_.block_scale_bytes,
                      head_.minimum_bits == 0 ? nullptr
                                              : packed_ + layout_.minimums_at + b * layout_.block_minimum_bytes,
                      layout_.runs, layout_.runs_of_group, head_.scale_bits == 16, head_.minimum_bits == 16,
                      head_.zero};
    const int64_t column = b * kLanes;
    const void* bias = bias_ ? static_cast<const char*>(bias_) + column * element_size(bias_dtype_) : nullptr;
    void* rows[kHeights[0]];
    for (int t = 0; t < part.count; ++t)
      rows[t] = static_cast<char*>(y_.data) + ((part.first + t) * y_.row_stride + column) * element_size(y_.dtype);
    multiply_[part.height](block, x,
                           {rows, bias, part.count, static_cast<int>(std::min<int64_t>(kLanes, head_.outputs - column)),
                            y_.dtype, bias_dtype_});
  }

  const Kernels& kernels_;
  const Head& head_;
  const Layout layout_;
  const uint8_t* packed_;
  const tritonode_punica_matrix& x_;
  const int64_t rows_;
  const void* bias_;
  const int32_t bias_dtype_;
  const tritonode_punica_matrix& y_;
  const Company& company_;
  Form form_;
  int wide_, first_height_;  // wide_: 1 with activations of 16 bits
  int64_t element_bytes_, row_bytes_;
  const Multiply* multiply_;
  std::vector<Part> parts_;
  char* tiles_ = nullptr;
  int64_t blocks_of_piece_ = 1;
};

}  // namespace

int32_t multiply(const tritonode_punica_matrix& x, int64_t rows, const void* packed, int64_t bytes, const void* bias,
                 int32_t bias_dtype, const tritonode_punica_matrix& y, const Company& company) {
  Head head;
  if (rows < 0 || !valid_dtype(x.dtype) || !valid_dtype(y.dtype) || (bias && !valid_dtype(bias_dtype)) ||
      !read_head(packed, bytes, head))
    return TRITONODE_PUNICA_INVALID;
  try {
    return Product(head, static_cast<const uint8_t*>(packed), x, rows, bias, bias_dtype, y, company).run()
               ? TRITONODE_PUNICA_OK
               : TRITONODE_PUNICA_NO_MEMORY;
  } catch (...) {
    return TRITONODE_PUNICA_NO_MEMORY;  // nothing else throws
  }
}

}  // namespace tritonode::linear

extern "C" int32_t tritonode_linear(const tritonode_punica_matrix* x, int64_t rows, const void* packed, int64_t bytes,
                                    const void* bias, int32_t bias_dtype, const tritonode_punica_matrix* y) {
  if (!x || !y) return TRITONODE_PUNICA_INVALID;
  return tritonode::linear::multiply(*x, rows, packed, bytes, bias, bias_dtype, *y, {});
}
