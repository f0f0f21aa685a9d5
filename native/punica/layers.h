// What the torch operator needs of engine.cc.
#pragma once

#include "engine.h"
#include "schedule.h"

namespace tritonode::punica {

struct Layer;

/// The layer whose first weights lie at this address, or null.
Layer* find_layer(const void* weights);
/// Whether no row of the step has an adapter.
bool idle(const Layer& layer, int32_t which);
/// The call that tritonode_punica_engine_apply() makes of a step's tokens; `call` is for another to run, and refers to x,
/// y and the engine. Without slices: nothing is to be done. Returns a tritonode_punica_status.
int32_t token_call(tritonode_punica_engine& engine, int64_t layer, const tritonode_punica_matrix& x, int64_t x_rows,
                   const tritonode_punica_matrix& y, Call& call);
/// y += scale * LoRA(x) after a check that both are as large as the layer needs.
int32_t apply_layer(Layer& layer, int32_t which, const tritonode_punica_matrix& x, int64_t x_rows, int64_t x_columns,
                    const tritonode_punica_matrix& y, int64_t y_rows, int64_t y_columns, float scale);

}  // namespace tritonode::punica
