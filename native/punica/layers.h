// What the torch operator needs of engine.cc.
#pragma once

#include "engine.h"

namespace tritonode::punica {

struct Layer;

/// The layer whose first weights lie at this address, or null.
Layer* find_layer(const void* weights);
/// Whether no row of the step has an adapter.
bool idle(const Layer& layer, int32_t which);
/// y += scale * LoRA(x) after a check that both are as large as the layer needs.
int32_t apply_layer(Layer& layer, int32_t which, const tritonode_punica_matrix& x, int64_t x_rows, int64_t x_columns,
                    const tritonode_punica_matrix& y, int64_t y_rows, int64_t y_columns, float scale);

}  // namespace tritonode::punica
