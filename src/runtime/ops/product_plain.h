// Products of f64 and the integers: straightforward loops, whole operands only.
#pragma once

#include "runtime/ops/product_kernel.h"

namespace forebay::ops {

// Sizes and strides of a batched product, in elements.
struct ProductLayout {
  std::int64_t m = 1, n = 1, k = 1;
  std::int64_t a_row = 0, a_col = 0, b_row = 0, b_col = 0;
  std::vector<std::int64_t> a_offsets, b_offsets;  // of each batch
  std::int64_t c_row = 0, c_col = 0;               // strides of input 2, 0 where it broadcasts
};
Result<ProductLayout> product_layout(const NodeView& node, const TypeShape& a, const TypeShape& b, const TypeShape* c, const ProductSpec& spec);

std::unique_ptr<Kernel> create_plain_product(DType dtype, const ProductSpec& spec);  // null: no such dtype

}  // namespace forebay::ops
