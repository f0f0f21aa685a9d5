// The decoder of native/decoder on the portable kernels: a row has the same bits alone, in a batch and with threads, with
// an adapter and without; what does not fit is refused.
#include <cstring>
#include <string>
#include <vector>

#include "../../native/decoder/decoder.h"
#include "../../native/linear/kernels.h"
#include "../../native/linear/linear.h"
#include "check.h"

// Only the portable kernels are compiled for this test.
namespace tritonode::punica {
const Kernels* avx2_kernels() { return nullptr; }
const Kernels* avx512_kernels() { return nullptr; }
const Kernels* avx512_bf16_kernels() { return nullptr; }
const Kernels* neon_kernels() { return nullptr; }
}  // namespace tritonode::punica
namespace tritonode::linear {
const Kernels* avx2_kernels() { return nullptr; }
const Kernels* avx512_vnni_kernels() { return nullptr; }
const Kernels* neon_kernels() { return nullptr; }
}  // namespace tritonode::linear

namespace {

constexpr int kHidden = 64, kIntermediate = 96, kHeads = 4, kKvHeads = 2, kHeadSize = 16, kLayers = 2, kBlock = 16,
              kBlocks = 8, kPositions = 32, kRank = 12;

/// Numbers of about the size that weights and activations have.
std::vector<float> Numbers(size_t count, unsigned seed) {
  std::vector<float> made(count);
  unsigned state = seed * 2654435761u + 1;
  for (float& number : made) {
    state = state * 1664525u + 1013904223u;
    number = (static_cast<float>(state >> 9) / static_cast<float>(1 << 23) - 0.5f) * 0.5f;
  }
  return made;
}

int32_t OnThreads(int64_t begin, int64_t end, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
  std::vector<std::thread> threads;
  for (int64_t i = begin; i < end; ++i) threads.emplace_back([=] { body(i, i + 1, context); });
  for (std::thread& thread : threads) thread.join();
  return 0;
}

struct Packed {
  std::vector<char> memory;
  char* data = nullptr;
  int64_t bytes = 0;
};

Packed Pack(const tritonode_linear_source& source) {
  Packed made;
  made.bytes = tritonode_linear_packed_bytes(&source);
  CHECK(made.bytes > 0);
  made.memory.resize(static_cast<size_t>(made.bytes) + 64);
  made.data = made.memory.data() + (64 - reinterpret_cast<uintptr_t>(made.memory.data()) % 64) % 64;
  CHECK(tritonode_linear_pack(&source, made.data, made.bytes) == TRITONODE_PUNICA_OK);
  return made;
}

/// 4-bit or float32 weights.
Packed Weight(int outputs, int inputs, bool quantised, unsigned seed) {
  const std::vector<float> values = Numbers(static_cast<size_t>(outputs) * inputs, seed);
  if (!quantised) return Pack({values.data(), nullptr, nullptr, outputs, inputs, inputs, 0, TRITONODE_LINEAR_FLOAT32, 0});
  std::vector<uint8_t> quants(values.size());
  for (size_t i = 0; i < quants.size(); ++i) quants[i] = static_cast<uint8_t>((values[i] + 0.25f) * 30.0f) & 15;
  const std::vector<float> scales(static_cast<size_t>(outputs) * (inputs / 32), 0.03f);
  const std::vector<float> minimums(scales.size(), -0.2f);
  return Pack({quants.data(), scales.data(), minimums.data(), outputs, inputs, inputs, 32, TRITONODE_LINEAR_INT4, 16});
}

/// A small model with everything it points to.
class Model {
 public:
  Model() : engine_(tritonode_punica_engine_new(2)), ones_(kHidden, 1.0f) {
    const int qkv = (kHeads + 2 * kKvHeads) * kHeadSize;
    angles_ = Numbers(kPositions * kHeadSize, 3);
    bias_ = Numbers(qkv, 4);
    for (int i = kHidden - 1; i >= 0; --i) order_.push_back(i);
    layers_.resize(kLayers);
    for (unsigned i = 0; i < kLayers; ++i) {
      // The queries' and keys' weights are of another format than the values'.
      const int values = kKvHeads * kHeadSize;
      weights_.push_back(Weight(qkv - values, kHidden, true, 10 + i));
      weights_.push_back(Weight(values, kHidden, false, 20 + i));
      weights_.push_back(Weight(kHidden, kHeads * kHeadSize, true, 30 + i));
      weights_.push_back(Weight(2 * kIntermediate, kHidden, true, 40 + i));
      weights_.push_back(Weight(kHidden, kIntermediate, false, 50 + i));
    }
    for (const Packed& weight : weights_) parts_.push_back({weight.data, weight.bytes, nullptr});
    for (size_t i = 0; i < kLayers; ++i) {
      caches_.emplace_back(static_cast<size_t>(kBlocks) * kKvHeads * kBlock * 2 * kHeadSize);
      tritonode_decoder_layer& layer = layers_[i];
      layer.input_norm = layer.mlp_norm = {ones_.data(), 1e-5f};
      layer.query_norm = layer.key_norm = {i == 0 ? ones_.data() : nullptr, 1e-6f};
      const auto seed = static_cast<unsigned>(4 * i);
      layer.qkv = {&parts_[5 * i], bias_.data(), engine_, Adapter(kHidden, qkv, seed), 2, 0};
      layer.attention_output = {&parts_[5 * i + 2], nullptr, engine_, Adapter(kHeads * kHeadSize, kHidden, seed + 1), 1, 0};
      layer.gate_up = {&parts_[5 * i + 3], nullptr, engine_, Adapter(kHidden, 2 * kIntermediate, seed + 2), 1, 0};
      layer.down = {&parts_[5 * i + 4], nullptr, engine_, Adapter(kIntermediate, kHidden, seed + 3), 1, 0};
      layer.cos_sin = {angles_.data(), kHeadSize, TRITONODE_PUNICA_FLOAT32};
      layer.position_count = kPositions;
      layer.cache = caches_.back().data();
      layer.block_stride = kKvHeads * kBlock * 2 * kHeadSize;
      layer.head_stride = kBlock * 2 * kHeadSize;
      layer.blocks = kBlocks;
      layer.block_size = kBlock;
      layer.scale = 0.25f;
    }
    parts_[2].order = order_.data();
  }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;
  ~Model() { tritonode_punica_engine_free(engine_); }

  tritonode_decoder_description Description() const {
    return {layers_.data(), {ones_.data(), 1e-5f}, kHidden,  kIntermediate, kLayers,
            kHeads,         kKvHeads,              kHeadSize, TRITONODE_PUNICA_FLOAT32};
  }

  /// Rows [begin, end) of each request's tokens, in one step.
  std::vector<float> Step(tritonode_decoder* decoder, const std::vector<int>& requests, int begin, int end,
                          int padding = 0) {
    std::vector<float> x;
    std::vector<int64_t> positions, slots, adapters;
    std::vector<int32_t> starts{0}, lengths, table;
    for (int request : requests) {
      for (int token = begin; token < end; ++token) {
        const std::vector<float> row = Numbers(kHidden, static_cast<unsigned>(1000 + 100 * request + token));
        x.insert(x.end(), row.begin(), row.end());
        positions.push_back(token);
        slots.push_back((2 * request + token / kBlock) * kBlock + token % kBlock);
        adapters.push_back(request == 1 ? 1 : -1);
      }
      starts.push_back(static_cast<int32_t>(positions.size()));
      lengths.push_back(end);
      table.insert(table.end(), {2 * request, 2 * request + 1});
    }
    for (int i = 0; i < padding; ++i) {
      positions.push_back(0);
      x.resize(x.size() + kHidden, 0.5f);
    }
    CHECK(tritonode_punica_engine_set_rows(engine_, TRITONODE_PUNICA_TOKENS, adapters.data(),
                                           static_cast<int64_t>(adapters.size())) == TRITONODE_PUNICA_OK);
    std::vector<float> out(x.size());
    tritonode_decoder_step step{};
    step.input = {x.data(), kHidden, TRITONODE_PUNICA_FLOAT32};
    step.output = {out.data(), kHidden, TRITONODE_PUNICA_FLOAT32};
    step.positions = positions.data();
    step.slots = slots.data();
    step.query_starts = starts.data();
    step.sequence_lengths = lengths.data();
    step.block_table = table.data();
    step.rows = static_cast<int64_t>(positions.size());
    step.slot_count = static_cast<int64_t>(slots.size());
    step.block_table_stride = 2;
    step.requests = static_cast<int32_t>(requests.size());
    step.causal = 1;
    CHECK(tritonode_decoder_run(decoder, &step) == TRITONODE_PUNICA_OK);
    step.block_table_stride = 1;  // the sequences have more blocks than that
    if (end > kBlock) CHECK(tritonode_decoder_run(decoder, &step) == TRITONODE_PUNICA_INVALID);
    return out;
  }

  tritonode_decoder_layer& layer(size_t i) { return layers_[i]; }

 private:
  int64_t Adapter(int inputs, int outputs, unsigned seed) {
    adapters_.push_back(Numbers(static_cast<size_t>(2 * kRank * inputs), 100 + seed));
    const float* a = adapters_.back().data();
    adapters_.push_back(Numbers(static_cast<size_t>(2 * kRank * outputs), 200 + seed));
    const tritonode_punica_slice slice{a,     adapters_.back().data(), kRank * inputs, inputs, kRank * outputs,
                                       kRank, outputs,                 0,              nullptr, kRank,
                                       TRITONODE_PUNICA_FLOAT32};
    const int64_t handle = tritonode_punica_engine_add_layer(engine_, &slice, 1, inputs);
    CHECK(handle >= 0);
    for (int32_t slot : {0, 1}) CHECK(tritonode_punica_engine_slot_changed(engine_, handle, slot, 1) == kRank);
    return handle;
  }

  tritonode_punica_engine* engine_;
  std::vector<float> ones_, angles_, bias_;
  std::vector<int64_t> order_;
  std::vector<Packed> weights_;
  std::vector<tritonode_decoder_part> parts_;
  std::vector<std::vector<float>> adapters_, caches_;
  std::vector<tritonode_decoder_layer> layers_;
};

void SameBits() {
  CHECK(tritonode_punica_set_level(TRITONODE_PUNICA_PORTABLE) == TRITONODE_PUNICA_OK);
  Model model;
  const char* reason = "";
  tritonode_decoder* decoder = nullptr;
  const tritonode_decoder_description description = model.Description();
  decoder = tritonode_decoder_new(&description, &reason);
  CHECK(decoder && !reason);
  constexpr int kTokens = 20;
  std::vector<std::vector<float>> alone;
  for (int request : {0, 1, 2}) alone.push_back(model.Step(decoder, {request}, 0, kTokens));
  CHECK(alone[0] != alone[1]);
  const auto row = [](const std::vector<float>& from, size_t i) {
    return std::vector<float>(from.begin() + static_cast<ptrdiff_t>(i) * kHidden,
                              from.begin() + static_cast<ptrdiff_t>(i + 1) * kHidden);
  };
  for (int32_t threads : {1, 3}) {
    tritonode_punica_set_parallel(threads > 1 ? &OnThreads : nullptr, threads);
    // With 62 rows the adapters are computed in the regions of the linear layers, with 72 in regions of their own.
    for (int padding : {2, 12}) {
      const std::vector<float> batch = model.Step(decoder, {0, 1, 2}, 0, kTokens, padding);
      for (size_t i = 0; i < 3 * kTokens; ++i) CHECK(row(batch, i) == row(alone[i / kTokens], i % kTokens));
    }
    for (int token = 0; token < kTokens; ++token) {  // one by one, as in decoding
      const std::vector<float> step = model.Step(decoder, {0, 1, 2}, token, token + 1);
      for (size_t i = 0; i < 3; ++i) CHECK(row(step, i) == row(alone[i], static_cast<size_t>(token)));
    }
  }
  tritonode_punica_set_parallel(nullptr, 1);
  tritonode_decoder_free(decoder);
}

void Refusing() {
  Model model;
  const tritonode_decoder_description description = model.Description();
  const auto refused = [&](const char* part) {
    const char* reason = nullptr;
    CHECK(tritonode_decoder_new(&description, &reason) == nullptr);
    CHECK(std::string(reason).find(part) != std::string::npos);
  };
  const tritonode_decoder_layer kept = model.layer(1);
  model.layer(1).mlp_norm.weight = nullptr;
  refused("norm");
  model.layer(1) = kept;
  model.layer(1).cos_sin.dtype = TRITONODE_PUNICA_BFLOAT16;
  refused("rotary");
  model.layer(1) = kept;
  model.layer(1).down = kept.gate_up;
  refused("inputs");
  model.layer(1) = kept;
  model.layer(1).qkv.part_count = 1;
  refused("outputs");
  model.layer(1) = kept;
  model.layer(1).cache = nullptr;
  refused("KV cache");
  model.layer(1) = kept;
  const char* reason = nullptr;
  CHECK(!tritonode_decoder_new(nullptr, &reason) && reason);
  tritonode_decoder_step nothing{};
  CHECK(tritonode_decoder_run(nullptr, &nothing) == TRITONODE_PUNICA_INVALID);
  tritonode_decoder* decoder = tritonode_decoder_new(&description, &reason);
  CHECK(decoder);
  CHECK(tritonode_decoder_run(decoder, &nothing) == TRITONODE_PUNICA_INVALID);
  tritonode_decoder_free(decoder);
}

}  // namespace

int main(int argc, char** argv) { return RunCase(argc, argv, {{"same_bits", SameBits}, {"refusing", Refusing}}); }
