// A product, for the parts of this library that give it company.
#pragma once

#include "../punica/alongside.h"
#include "linear.h"

namespace tritonode::linear {

/// What the threads of a product do besides: add a LoRA layer's part to y, fetch what a later product needs.
struct Company {
  punica::Alongside* lora = nullptr;      // null: none
  int64_t column = 0;                     // of its y, at which the product's outputs begin
  const punica::Ahead* ahead = nullptr;   // null: none
};

/// tritonode_linear() in company.
int32_t multiply(const tritonode_punica_matrix& x, int64_t rows, const void* packed, int64_t bytes, const void* bias,
                 int32_t bias_dtype, const tritonode_punica_matrix& y, const Company& company);

}  // namespace tritonode::linear
