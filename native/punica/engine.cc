#include "engine.h"

#include "interleaved.h"
#include "layers.h"

#include <algorithm>
#include <deque>
#include <mutex>
#include <numeric>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

namespace tritonode::punica {

struct Layer {
  tritonode_punica_engine* engine;
  std::vector<tritonode_punica_slice> slices;
  std::vector<std::vector<int32_t>> slot_ranks;  // by slice, then slot
  std::vector<InterleavedB> interleaved;         // by slice
  int64_t inputs;
};

struct Rows {
  std::vector<int32_t> rows;
  std::vector<tritonode_punica_group> groups;
  tritonode_punica_batch batch{};
  int64_t count = 0;
};

}  // namespace tritonode::punica

using tritonode::punica::Layer;
using tritonode::punica::Rows;

struct tritonode_punica_engine {
  int32_t slot_count;
  std::deque<Layer> layers;  // addresses stay
  Rows rows[2];
  uint8_t* flags = nullptr;
  int64_t flag_count = 0;
};

namespace {

// Every engine's layers by address of weights. Written while an engine is built, read at each layer call.
std::shared_mutex registry_lock;
std::unordered_map<const void*, Layer*>& registry() {
  static std::unordered_map<const void*, Layer*> instance;
  return instance;
}

bool touched(const Layer& layer, const tritonode_punica_batch& batch) {
  for (int32_t g = 0; g < batch.group_count; ++g)
    for (const std::vector<int32_t>& ranks : layer.slot_ranks)
      if (ranks[static_cast<size_t>(batch.groups[g].slot)] > 0) return true;
  return false;
}

void flag(tritonode_punica_engine& engine, size_t layer) {
  if (engine.flags && static_cast<int64_t>(layer) < engine.flag_count)
    engine.flags[layer] = touched(engine.layers[layer], engine.rows[TRITONODE_PUNICA_TOKENS].batch) ? 1 : 0;
}

void flag_all(tritonode_punica_engine& engine) {
  for (size_t layer = 0; layer < engine.layers.size(); ++layer) flag(engine, layer);
}

int32_t apply_batch(Layer& layer, const tritonode_punica_batch& batch, const tritonode_punica_matrix& x,
                    const tritonode_punica_matrix& y, float scale) {
  using tritonode::punica::checked_run;
  const int count = static_cast<int>(layer.slices.size());
  const auto* copies = layer.interleaved.data();
  if (layer.slices[0].a)
    return checked_run({layer.slices.data(), count, &batch, &x, layer.inputs, &y, nullptr, scale, true, copies});
  if (scale != 1.0f) return TRITONODE_PUNICA_INVALID;
  return checked_run({layer.slices.data(), count, &batch, nullptr, 0, &y, &x, scale, true, copies});
}

int32_t apply(Layer& layer, int32_t which, const tritonode_punica_matrix& x, int64_t x_rows,
              const tritonode_punica_matrix& y, float scale) {
  if (which != TRITONODE_PUNICA_TOKENS && which != TRITONODE_PUNICA_SAMPLED) return TRITONODE_PUNICA_INVALID;
  const Rows& rows = layer.engine->rows[which];
  if (!touched(layer, rows.batch)) return TRITONODE_PUNICA_OK;
  if (which == TRITONODE_PUNICA_SAMPLED && x_rows != rows.count) {
    if (rows.batch.group_count != 1 || rows.batch.row_count != rows.count) return TRITONODE_PUNICA_INVALID;
    std::vector<int32_t> all(static_cast<size_t>(x_rows));
    std::iota(all.begin(), all.end(), 0);
    const tritonode_punica_group group{rows.groups[0].slot, 0, static_cast<int32_t>(x_rows)};
    return apply_batch(layer, {&group, all.data(), x_rows > 0 ? 1 : 0, group.count}, x, y, scale);
  }
  return x_rows < rows.count ? TRITONODE_PUNICA_INVALID : apply_batch(layer, rows.batch, x, y, scale);
}

}  // namespace

namespace tritonode::punica {

Layer* find_layer(const void* weights) {
  const std::shared_lock lock(registry_lock);
  const auto found = registry().find(weights);
  return found == registry().end() ? nullptr : found->second;
}

int32_t apply_layer(Layer& layer, int32_t which, const tritonode_punica_matrix& x, int64_t x_rows, int64_t x_columns,
                    const tritonode_punica_matrix& y, int64_t y_rows, int64_t y_columns, float scale) {
  int64_t needed = 0;
  for (const tritonode_punica_slice& slice : layer.slices) needed = std::max(needed, slice.y_offset + slice.outputs);
  const int64_t inputs = layer.slices[0].a ? layer.inputs : layer.slices[0].rank;
  if (x_columns < inputs || y_columns < needed || y_rows < x_rows) return TRITONODE_PUNICA_INVALID;
  return apply(layer, which, x, x_rows, y, scale);
}

int32_t token_call(tritonode_punica_engine& engine, int64_t layer, const tritonode_punica_matrix& x, int64_t x_rows,
                   const tritonode_punica_matrix& y, Call& call) {
  call = {};
  if (layer < 0 || layer >= static_cast<int64_t>(engine.layers.size())) return TRITONODE_PUNICA_INVALID;
  const Layer& of = engine.layers[static_cast<size_t>(layer)];
  const Rows& rows = engine.rows[TRITONODE_PUNICA_TOKENS];
  if (!touched(of, rows.batch)) return TRITONODE_PUNICA_OK;
  if (x_rows < rows.count || !of.slices[0].a) return TRITONODE_PUNICA_INVALID;
  call = {of.slices.data(), static_cast<int>(of.slices.size()), &rows.batch, &x, of.inputs, &y, nullptr, 1.0f, true, of.interleaved.data()};
  return valid(call) ? TRITONODE_PUNICA_OK : TRITONODE_PUNICA_INVALID;
}

bool idle(const Layer& layer, int32_t which) {
  return (which == TRITONODE_PUNICA_TOKENS || which == TRITONODE_PUNICA_SAMPLED) &&
         layer.engine->rows[which].batch.group_count == 0;
}

}  // namespace tritonode::punica

extern "C" {

tritonode_punica_engine* tritonode_punica_engine_new(int32_t slot_count) {
  if (slot_count < 1) return nullptr;
  try {
    return new tritonode_punica_engine{slot_count, {}, {}, nullptr, 0};
  } catch (...) {
    return nullptr;
  }
}

void tritonode_punica_engine_free(tritonode_punica_engine* engine) {
  if (!engine) return;
  {
    const std::unique_lock lock(registry_lock);
    std::erase_if(registry(), [engine](const auto& entry) { return entry.second->engine == engine; });
  }
  delete engine;
}

int32_t tritonode_punica_engine_set_rows(tritonode_punica_engine* engine, int32_t which, const int64_t* slots,
                                         int64_t count) {
  if (!engine || (which != TRITONODE_PUNICA_TOKENS && which != TRITONODE_PUNICA_SAMPLED) || count < 0)
    return TRITONODE_PUNICA_INVALID;
  Rows& rows = engine->rows[which];
  rows.batch = {};
  try {
    rows.rows.resize(static_cast<size_t>(count));
    rows.groups.resize(static_cast<size_t>(std::min<int64_t>(count, engine->slot_count)));
  } catch (...) {
    return TRITONODE_PUNICA_NO_MEMORY;
  }
  int32_t row_count = 0;
  const int32_t groups = tritonode_punica_group_rows(slots, count, engine->slot_count, rows.rows.data(),
                                                     rows.groups.data(), &row_count);
  if (groups < 0) return TRITONODE_PUNICA_INVALID;
  rows.count = count;
  rows.batch = {rows.groups.data(), rows.rows.data(), groups, row_count};
  if (which == TRITONODE_PUNICA_TOKENS) flag_all(*engine);
  return TRITONODE_PUNICA_OK;
}

int32_t tritonode_punica_engine_row_count(const tritonode_punica_engine* engine, int32_t which) {
  return engine && (which == 0 || which == 1) ? engine->rows[which].batch.row_count : 0;
}

void tritonode_punica_engine_set_flags(tritonode_punica_engine* engine, uint8_t* flags, int64_t count) {
  if (!engine) return;
  engine->flags = flags;
  engine->flag_count = count;
  flag_all(*engine);
}

int64_t tritonode_punica_engine_add_layer(tritonode_punica_engine* engine, const tritonode_punica_slice* slices,
                                          int32_t slice_count, int64_t inputs) {
  if (!engine || !slices || slice_count < 1) return -1;
  const void* key = slices[0].a ? slices[0].a : slices[0].b;
  if (!key) return -1;
  try {
    Layer layer{engine, {slices, slices + slice_count}, {}, {}, inputs};
    for (int32_t s = 0; s < slice_count; ++s) layer.interleaved.emplace_back(engine->slot_count);
    layer.slot_ranks.assign(static_cast<size_t>(slice_count),
                            std::vector<int32_t>(static_cast<size_t>(engine->slot_count), 0));
    engine->layers.push_back(std::move(layer));
    Layer& added = engine->layers.back();
    for (int32_t s = 0; s < slice_count; ++s) added.slices[s].slot_ranks = added.slot_ranks[s].data();
    const std::unique_lock lock(registry_lock);
    registry()[key] = &added;
    return static_cast<int64_t>(engine->layers.size()) - 1;
  } catch (...) {
    return -1;
  }
}

int32_t tritonode_punica_engine_slot_changed(tritonode_punica_engine* engine, int64_t layer, int32_t slot,
                                             int32_t filled) {
  if (!engine || layer < 0 || layer >= static_cast<int64_t>(engine->layers.size()) || slot < 0 ||
      slot >= engine->slot_count)
    return -1;
  Layer& of = engine->layers[static_cast<size_t>(layer)];
  int32_t largest = 0;
  for (size_t s = 0; s < of.slices.size(); ++s) {
    const int32_t used = filled ? tritonode_punica_used_rank(&of.slices[s], of.inputs, slot) : 0;
    of.slot_ranks[s][static_cast<size_t>(slot)] = used;
    of.interleaved[s].assign(of.slices[s], slot, used);
    largest = std::max(largest, used);
  }
  flag(*engine, static_cast<size_t>(layer));
  return largest;
}

int32_t tritonode_punica_engine_apply(tritonode_punica_engine* engine, int64_t layer, int32_t which,
                                      const tritonode_punica_matrix* x, int64_t x_rows,
                                      const tritonode_punica_matrix* y, float scale) {
  if (!engine || layer < 0 || layer >= static_cast<int64_t>(engine->layers.size()) || !x || !y)
    return TRITONODE_PUNICA_INVALID;
  return apply(engine->layers[static_cast<size_t>(layer)], which, *x, x_rows, *y, scale);
}

}  // extern "C"
